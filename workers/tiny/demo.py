"""Writes scenes as image files together with their true masks, and compares a run's results with these.

Knows numpy, Pillow and pycocotools, but no model and no torch. All masks are COCO RLE.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from workers.tiny import agreement, scenes

TRUTH = "truth.json"
SEED = 64
SHORT_SIDE = (160, 640)  # pixels


class Rle(TypedDict):
    """A COCO mask as JSON holds it: size is [height, width], counts the compressed text."""

    size: list[int]
    counts: str


Answers = Mapping[str, list[Rle]]  # prompt -> instances


def write_demo(folder: Path, count: int = 64, seed: int = SEED) -> dict[str, dict[str, list[Rle]]]:
    """Write `count` scenes of different sizes to `folder`, JPEG and PNG in turn, and `truth.json`.

    Return and store file name -> prompt -> the true masks, for every prompt that could be asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth: dict[str, dict[str, list[Rle]]] = {}
    for number in range(count):
        scene = scenes.scene(seed, number, SHORT_SIDE)
        name = f"scene-{number:03d}.{'png' if number % 2 else 'jpg'}"
        Image.fromarray(scene.image).save(folder / name, quality=92)  # PNG ignores the quality
        truth[name] = {prompt: [rle(mask) for mask in scene.truth(prompt)] for prompt in every_prompt()}
    (folder / TRUTH).write_text(json.dumps(truth) + "\n")
    return truth


def every_prompt() -> list[str]:
    """Return all prompts for which the true masks are known, from "shape" to "yellow star"."""
    colours = [f"{colour} shape" for colour in scenes.COLOURS]
    pairs = [f"{colour} {shape}" for colour in scenes.COLOURS for shape in scenes.SHAPES]
    return ["shape", *scenes.SHAPES, *colours, *pairs]


def read_truth(folder: Path) -> dict[str, dict[str, list[Rle]]]:
    """Return what `write_demo` stored in `folder`. Raise FileNotFoundError if it did not."""
    truth: dict[str, dict[str, list[Rle]]] = json.loads((folder / TRUTH).read_text())
    return truth


def compare(truth: Mapping[str, Answers], found: Mapping[str, Answers]) -> agreement.Agreement:
    """Count the instances found against those drawn, over the files and prompts of `found`.

    Raise KeyError for a file or a prompt that has no truth.
    """
    total = agreement.Agreement()
    for name, answers in found.items():
        for prompt, instances in answers.items():
            total += agreement.agree(_ious(instances, truth[name][prompt]))
    return total


def rle(mask: scenes.Mask) -> Rle:
    """Encode a mask (height, width)."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def _ious(found: Iterable[Rle], drawn: Iterable[Rle]) -> agreement.Ious:
    rows, columns = list(found), list(drawn)
    ious = coco.iou(rows, columns, [0] * len(columns)) if rows and columns else []
    return np.asarray(ious, dtype=np.float64).reshape(len(rows), len(columns))
