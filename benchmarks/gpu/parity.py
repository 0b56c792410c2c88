"""Whether ours finds what the library's own loop finds, on photographs. Measures no time."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.architecture import plain_loop
from benchmarks.timing import Row
from workers.inference.items import Segmented
from workers.inference.models.torch_precision import use_products
from workers.inference.protocol import Options
from workers.inference.shapes import masks

IMAGES = 4  # photographs that are compared, each with another subject
# What ours may differ from the library in fp32; docs/forward-pass.md, on precision, says why.
NEAREST_IOU = {"fp32": 0.999, "mixed": 0.85, "bf16": 0.8}  # of masks: the least in fp32, else the mean
FURTHEST_SCORE = {"fp32": 0.001, "mixed": 0.01, "bf16": 0.1}
# Median, in pixels of an image that is 1,920 wide, of a model that sees it in 1,008; in as much more of a smaller one.
FURTHEST_BOX = {"fp32": 0.1, "mixed": 1.0, "bf16": 10.0}
FULL_SIDE = 1008
WIDTH = 1920
EVERYTHING = Options(threshold=0.0, score_floor=0.0)
SIDE = "the model's side, px"
COMPARED = 5  # instances of each photograph


@dataclass(frozen=True)
class Match:
    """One of the library's instances beside the one of ours whose box is nearest."""

    iou: float
    score: float  # difference
    box: float  # the largest difference of a coordinate, in pixels of an image that is 1,920 wide


NOTHING = Match(0.0, 1.0, float(WIDTH))


def compare(name: str, ours: Sequence[Segmented], library: Any, processor: Any, paths: Sequence[str]) -> Row:
    """The library's best instances of each photograph, whatever their score, and the worst match among ours, which were
    found with `EVERYTHING`.

    The library runs in true fp32 here, without TF32, which `mixed` turns on for the process.
    """
    use_products("fp32", library.device)
    matches = [
        match for path, one in zip(paths, ours, strict=True) for match in _matches(one, path, library, processor)
    ]
    worst = matches or [NOTHING]
    return {
        "": name,
        SIDE: processor.image_processor.size["height"],
        "photographs": len(paths),
        "instances compared": len(matches),
        "least IoU": min(match.iou for match in worst),
        "mean IoU": statistics.mean(match.iou for match in worst),
        "largest difference of a score": max(match.score for match in worst),
        "median difference of a box, px of 1920": statistics.median(match.box for match in worst),
    }


def _matches(outcome: Segmented, path: str, library: Any, processor: Any) -> list[Match]:
    """Each of the library's best instances that has a mask with the one of ours that has the nearest box. The pipeline
    leaves out instances with an empty mask."""
    ours = outcome.found[0].instances
    if not ours:
        return []
    scores = [*(one.score for one in ours), 0.0]
    last = min(COMPARED, len(ours))
    cut = (scores[last - 1] + scores[last]) / 2
    with Image.open(path) as image:
        (theirs,) = plain_loop(library, processor, [image.convert("RGB")], "person", cut)
    found = (theirs[name].cpu().numpy() for name in ("scores", "boxes", "masks"))
    matches = []
    for score, box, mask in zip(*found, strict=True):
        if not mask.any():
            continue
        distance, best = min(
            ((float(np.abs(box - np.array(one.box)).max()), one) for one in ours), key=lambda pair: pair[0]
        )
        iou = masks.iou(best.rle, masks.encode(mask.astype(np.uint8)), outcome.height, outcome.width)
        matches.append(Match(iou, abs(best.score - float(score)), distance * WIDTH / outcome.width))
    return matches


def holds(row: Row, precision: str) -> bool:
    """Whether masks, scores and boxes are close enough to the library's."""
    iou = row["least IoU" if precision == "fp32" else "mean IoU"]
    return bool(
        iou >= NEAREST_IOU[precision]
        and row["largest difference of a score"] <= FURTHEST_SCORE[precision]
        and row["median difference of a box, px of 1920"] <= FURTHEST_BOX[precision] * FULL_SIDE / row[SIDE]
    )
