"""The instances that are kept of a model's answers, and their masks at the images' own sizes. Runs no model.

What every family has in common after its forward pass: scores and boxes are on the host, masks are still on the device
and in low resolution. Here they leave the device, several images at a time, and become RLE.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from workers.inference.answers import Found, Instance
from workers.inference.models import torch_copies
from workers.inference.protocol import Options
from workers.inference.shapes import outlines

SMALLEST = 1 / float(np.finfo(np.float32).max)  # the smallest probability in fp32 that sigmoid gives, apart from 0
NEARLY_ALL = 0.95  # share of kept queries from which a result is capped: 190 of 200. There may be more objects.

Floats = npt.NDArray[np.float32]
Row = tuple[int, int]
"""What an answer is about: the number of an image in the batch, and the number of one of its prompts."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The n instances that are kept for one prompt in one image, highest score first."""

    presence: float
    scores: Floats  # (n,)
    boxes: Floats  # (n, 4) x1, y1, x2, y2 in fractions of the image
    masks: list[torch.Tensor]  # n of (h, w), logits, on the device; none once they are on the host
    capped: bool


@dataclass(eq=False)
class RawKept:
    """What a forward pass left: `protocol.Raw`. Each of its images is asked for once or more often."""

    sizes: list[tuple[int, int]]  # (height, width) of each image, in pixels
    kept: dict[Row, Kept]
    done: torch.cuda.Event | None  # until then the device computes; on a GPU only
    small: dict[Row, Floats] = field(default_factory=dict)  # the masks that are on the host

    def fetch(self, images: range, options: Options) -> None:
        """Copy the masks of these images to the host, those that are not there yet."""
        new = {row: kept for row, kept in self.kept.items() if row[0] in images and row not in self.small}
        self.small |= zip(new, to_host(list(new.values()), options), strict=True)

    def found(self, images: range, options: Options) -> list[tuple[Found, ...]]:
        """The answers for these images, whose masks were fetched.

        Their masks on the device are freed. Once that is done for all images of the batch, its memory for masks, 66 MB
        an image, is free.
        """
        found: dict[int, list[Found]] = {image: [] for image in images}
        for row in sorted(self.kept):
            if row[0] in images:
                self.kept[row].masks.clear()
                found[row[0]].append(found_in(self.kept[row], self.small[row], self.sizes[row[0]], options))
        return [tuple(of_image) for of_image in found.values()]


def best(scores: Floats, floor: float) -> npt.NDArray[np.intp]:
    """Which of the queries are kept: those that score above the floor, highest first."""
    chosen = np.flatnonzero(scores > floor)
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def is_capped(kept: int, queries: int) -> bool:
    """Whether so many of the queries were kept that the number of queries may have hidden others."""
    return kept >= NEARLY_ALL * queries


def to_host(kept: Sequence[Kept], options: Options) -> list[Floats]:
    """The masks of each, of shape (n, h, w), copied from the device in one step: probabilities for the library's rule,
    logits for Meta's, since these are what is enlarged."""
    logits = [mask for one in kept for mask in one.masks]
    if not logits:
        return [np.empty((0, 1, 1), np.float32) for _ in kept]
    small = torch.stack(logits).float()
    if options.mask_rule == "library":
        small.sigmoid_()
    return np.split(torch_copies.to_host(small), np.cumsum([len(one.masks) for one in kept])[:-1])


def found_in(kept: Kept, small: Floats, size: tuple[int, int], options: Options) -> Found:
    """The kept instances in an image of `size` (height, width) in pixels. `small` are their masks on the host."""
    height, width = size
    boxes = kept.boxes * np.array([width, height, width, height], np.float32)
    outlined = outlines.encode(small, height, width, cut_of(options))
    instances = [
        Instance(score, (x1, y1, x2, y2), area, rle)
        for score, (x1, y1, x2, y2), (rle, area) in zip(kept.scores.tolist(), boxes.tolist(), outlined, strict=True)
    ]
    return Found(kept.presence, tuple(instances), kept.capped)


def cut_of(options: Options) -> float:
    """The value that a pixel of an enlarged mask must exceed: a probability, or for Meta's rule the logit of it."""
    threshold = options.mask_threshold
    if options.mask_rule == "library":
        return threshold
    if threshold >= 1:
        return math.inf
    return math.log(max(threshold, SMALLEST) / (1 - threshold))
