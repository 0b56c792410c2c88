"""What SAM3's heads answer, and what of it is kept as instances with masks of the image's size. Runs no model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from workers.inference import outlines, sam3_copies
from workers.inference.answers import Found, Instance
from workers.inference.pipeline import Options

SMALLEST = 1 / float(np.finfo(np.float32).max)  # probability in fp32: below it sigmoid gives 0
NEARLY_ALL = 0.95  # of the queries kept: 190 of SAM3's 200. More objects than queries cannot be told apart.

Floats = npt.NDArray[np.float32]
Row = tuple[int, int]
"""What the heads are asked: an image of the batch, by its number, and which of its prompts."""


@dataclass(frozen=True, eq=False)
class Heads:
    """What one run of the heads left on the device. r rows, q queries:"""

    rows: list[Row]
    numbers: torch.Tensor  # (r, 1 + 5 q) presence, scores, boxes as x1, y1, x2, y2 in fractions of the image; fp32
    masks: torch.Tensor  # (r, q, h, w) logits at the model's mask size


@dataclass(frozen=True, eq=False)
class Kept:
    """What one prompt keeps of one image, best score first. n instances:"""

    presence: float
    scores: npt.NDArray[np.float32]  # (n,)
    boxes: npt.NDArray[np.float32]  # (n, 4)
    masks: list[torch.Tensor]  # n of (h, w), logits, on the device; none once they are on the host
    capped: bool


def keep(heads: Heads, floor: float, *, copy: bool = False) -> dict[Row, Kept]:
    """Of each row the instances that score above `floor`. A `copy` of their masks lets all the others go."""
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
    """The masks (n, h, w) of each, as they are enlarged: probabilities by the library's rule, logits by Meta's. One
    copy for all."""
    logits = [mask for one in kept for mask in one.masks]
    if not logits:
        return [np.empty((0, 1, 1), np.float32) for _ in kept]
    small = torch.stack(logits).float()
    if options.mask_rule == "library":
        small.sigmoid_()
    return np.split(sam3_copies.to_host(small), np.cumsum([len(one.masks) for one in kept])[:-1])


def found_in(kept: Kept, small: Floats, size: tuple[int, int], options: Options) -> Found:
    """What is kept, in pixels of an image of this height and width; its masks are these on the host."""
    height, width = size
    boxes = kept.boxes * np.array([width, height, width, height], np.float32)
    outlined = outlines.encode(small, height, width, _cut(options))
    instances = [
        Instance(score, (x1, y1, x2, y2), area, rle)
        for score, (x1, y1, x2, y2), (rle, area) in zip(kept.scores.tolist(), boxes.tolist(), outlined, strict=True)
    ]
    return Found(kept.presence, tuple(instances), kept.capped)


def _cut(options: Options) -> float:
    """What an enlarged pixel must exceed to be inside. Meta enlarges logits, and then asks for their probability."""
    threshold = options.mask_threshold
    if options.mask_rule == "library":
        return threshold
    if threshold >= 1:
        return math.inf
    return math.log(max(threshold, SMALLEST) / (1 - threshold))
