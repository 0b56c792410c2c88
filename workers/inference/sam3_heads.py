"""The output of SAM3's heads, and the instances that are kept of it, with masks of the image's size. Runs no model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from workers.inference import outlines, sam3_copies
from workers.inference.answers import Found, Instance
from workers.inference.protocol import Options

SMALLEST = 1 / float(np.finfo(np.float32).max)  # the smallest probability in fp32 that sigmoid gives, apart from 0
NEARLY_ALL = 0.95  # share of kept queries from which a result is capped: 190 of 200. There may be more objects.

Floats = npt.NDArray[np.float32]
Row = tuple[int, int]
"""What one row of the heads is about: the number of an image in the batch, and the number of one of its prompts."""


@dataclass(frozen=True, eq=False)
class Heads:
    """The output of one run of the heads, on the device, for r rows with q queries each."""

    rows: list[Row]
    numbers: torch.Tensor  # (r, 1 + 5 q) presence, scores, boxes as x1, y1, x2, y2 in fractions of the image; fp32
    masks: torch.Tensor  # (r, q, h, w) logits at the model's mask size


@dataclass(frozen=True, eq=False)
class Kept:
    """The n instances that are kept for one prompt in one image, highest score first."""

    presence: float
    scores: npt.NDArray[np.float32]  # (n,)
    boxes: npt.NDArray[np.float32]  # (n, 4)
    masks: list[torch.Tensor]  # n of (h, w), logits, on the device; none once they are on the host
    capped: bool


def keep(heads: Heads, floor: float, *, copy: bool = False) -> dict[Row, Kept]:
    """The instances of each row with a score above `floor`. With `copy` their masks are copied, so that the memory of
    all other masks can be freed."""
    numbers = sam3_copies.to_host(heads.numbers)
    queries = heads.masks.shape[1]
    kept = {}
    for row, masks_of_row, line in zip(heads.rows, heads.masks, numbers, strict=True):
        presence, scores, boxes = line[0], line[1 : 1 + queries], line[1 + queries :].reshape(queries, 4)
        chosen = np.flatnonzero(scores > floor)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        small = [masks_of_row[query] for query in chosen]
        if copy and small:
            small = list(torch.stack(small))
        capped = len(chosen) >= NEARLY_ALL * queries
        kept[row] = Kept(float(presence), scores[chosen], boxes[chosen], small, capped)
    return kept


def to_host(kept: Sequence[Kept], options: Options) -> list[Floats]:
    """The masks of each, of shape (n, h, w), copied from the device in one step: probabilities for the library's rule,
    logits for Meta's, since these are what is enlarged."""
    logits = [mask for one in kept for mask in one.masks]
    if not logits:
        return [np.empty((0, 1, 1), np.float32) for _ in kept]
    small = torch.stack(logits).float()
    if options.mask_rule == "library":
        small.sigmoid_()
    return np.split(sam3_copies.to_host(small), np.cumsum([len(one.masks) for one in kept])[:-1])


def found_in(kept: Kept, small: Floats, size: tuple[int, int], options: Options) -> Found:
    """The kept instances in an image of `size` (height, width) in pixels. `small` are their masks on the host."""
    height, width = size
    boxes = kept.boxes * np.array([width, height, width, height], np.float32)
    outlined = outlines.encode(small, height, width, _cut(options))
    instances = [
        Instance(score, (x1, y1, x2, y2), area, rle)
        for score, (x1, y1, x2, y2), (rle, area) in zip(kept.scores.tolist(), boxes.tolist(), outlined, strict=True)
    ]
    return Found(kept.presence, tuple(instances), kept.capped)


def _cut(options: Options) -> float:
    """The value that a pixel of an enlarged mask must exceed: a probability, or for Meta's rule the logit of it."""
    threshold = options.mask_threshold
    if options.mask_rule == "library":
        return threshold
    if threshold >= 1:
        return math.inf
    return math.log(max(threshold, SMALLEST) / (1 - threshold))
