"""Whether a segmenter finds what the library's own loop finds, on photographs. Measures no time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.architecture import plain_loop
from benchmarks.gpu.ours import outcomes
from benchmarks.timing import Row
from workers.inference import masks
from workers.inference.items import Segmented
from workers.inference.protocol import Options
from workers.inference.sam3_model import Sam3Segmenter
from workers.inference.torch_precision import use_products

IMAGES = 4  # photographs that are compared, each with another subject
LEAST_IOU = {"fp32": 0.999, "mixed": 0.95, "bf16": 0.9}  # of a mask with the library's in fp32
FURTHEST_SCORE = {"fp32": 0.001, "mixed": 0.05, "bf16": 0.1}
EVERYTHING = Options(threshold=0.0, score_floor=0.0)
COMPARED = 5  # instances of each photograph


def compare(
    segmenter: Sam3Segmenter, library: Any, processor: Any, paths: Sequence[str], *, compiled: bool = False
) -> Row:
    """The library's best instances of each photograph, whatever their score, and the worst match among ours.

    The library runs in true fp32 here, without TF32, which `mixed` turns on for the process.
    """
    ours = outcomes(segmenter, paths, len(paths), replace(EVERYTHING, compiled=compiled))
    assert segmenter.facts.compiles or not compiled, "the model cannot be compiled"
    use_products("fp32", library.device)
    matches = [
        match for path, one in zip(paths, ours, strict=True) for match in _matches(one, path, library, processor)
    ]
    return {
        "": f"ours, {segmenter.facts.dtype}" + ", compiled" * compiled,
        "photographs": len(paths),
        "instances compared": len(matches),
        "least IoU": min((iou for iou, _ in matches), default=0.0),
        "largest difference of a score": max((difference for _, difference in matches), default=1.0),
    }


def _matches(outcome: Segmented, path: str, library: Any, processor: Any) -> list[tuple[float, float]]:
    """IoU and difference of the score of each of the library's best instances with the one of ours that fits best."""
    ours = outcome.found[0].instances
    if not ours:
        return []
    scores = [*(one.score for one in ours), 0.0]
    last = min(COMPARED, len(ours))
    cut = (scores[last - 1] + scores[last]) / 2
    with Image.open(path) as image:
        (theirs,) = plain_loop(library, processor, [image.convert("RGB")], "person", cut)
    matches = []
    for score, mask in zip(theirs["scores"].tolist(), theirs["masks"].cpu().numpy(), strict=True):
        rle = masks.encode(mask.astype(np.uint8))
        fits = [(masks.iou(one.rle, rle, outcome.height, outcome.width), abs(one.score - score)) for one in ours]
        matches.append(max(fits))
    return matches


def holds(row: Row, precision: str) -> bool:
    """Whether masks and scores are close enough to the library's."""
    near = row["largest difference of a score"] <= FURTHEST_SCORE[precision]
    return bool(near and row["least IoU"] >= LEAST_IOU[precision])
