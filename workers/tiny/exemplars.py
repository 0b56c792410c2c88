"""Asks for objects by boxes around some of them: which boxes, and which masks are the answer. Knows scenes, no model.

A box stands for the shape of the object in it, whatever its colour: a positive box asks for all objects of that shape,
and a negative box takes all objects of that shape away from what the text names.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from workers.tiny import scenes

VISUAL = "visual"  # the library's own text for boxes that come without one
OFF = 0.05  # by how much an edge of a box may be off, as part of the box's side: nobody draws boxes exactly


class Box(NamedTuple):
    """A box in parts of the picture, 0 to 1; a negative one shows what is not wanted."""

    x: float  # of its centre
    y: float
    width: float
    height: float
    positive: bool = True

    def corners(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in the pixels of a picture of this size."""
        x, y, across, down = self.x * width, self.y * height, self.width * width / 2, self.height * height / 2
        return x - across, y - down, x + across, y + down


@dataclass(frozen=True)
class Question:
    """A text, boxes around objects, and the masks that are the answer. Without boxes the text alone is the question."""

    text: str
    truth: list[scenes.Mask]
    boxes: tuple[Box, ...] = ()


def by_box(scene: scenes.Scene, rng: np.random.Generator) -> Question:
    """Ask for all objects of a shape with positive boxes around one or two of them.

    Sometimes a negative box says which other shape is not meant.
    """
    shape = _any_shape(scene, rng)
    alike = _seen(scene, shape)
    boxes = [_around(alike[number], rng) for number in rng.permutation(len(alike))[: rng.integers(1, 3)]]
    others = [name for name in _shapes(scene) if name != shape]
    if others and rng.random() < 0.25:
        boxes.append(_around(_one(_seen(scene, str(rng.choice(others))), rng), rng, positive=False))
    return Question(VISUAL, alike, tuple(boxes))


def without_box(scene: scenes.Scene, rng: np.random.Generator) -> Question:
    """Ask for all objects, or all of a colour, but those of a shape: a text and a negative box around one of these."""
    shape = _any_shape(scene, rng)
    seen = [drawn for drawn in scene.objects if drawn.mask.any()]
    text = "shape" if rng.random() < 0.5 else f"{rng.choice(sorted({drawn.colour for drawn in seen}))} shape"
    box = _around(_one(_seen(scene, shape), rng), rng, positive=False)
    left = [drawn.mask for drawn in seen if drawn.shape != shape and text in ("shape", f"{drawn.colour} shape")]
    return Question(text, left, (box,))


def tight(mask: scenes.Mask) -> Box:
    """Return the smallest box around a mask."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return _between(columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)


def _between(left: float, top: float, right: float, bottom: float, positive: bool = True) -> Box:
    return Box((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, positive)


def _around(mask: scenes.Mask, rng: np.random.Generator, positive: bool = True) -> Box:
    """Return a box around a mask, with edges a little off, within the picture."""
    x, y, width, height, _ = tight(mask)
    edges = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    edges += rng.uniform(-OFF, OFF, 4) * [width, height, width, height]
    left, top, right, bottom = edges.clip(0, 1).tolist()
    return _between(left, top, right, bottom, positive)


def _seen(scene: scenes.Scene, text: str) -> list[scenes.Mask]:
    """Return the masks that a text names, except objects that others cover wholly."""
    return [mask for mask in scene.truth(text) if mask.any()]


def _shapes(scene: scenes.Scene) -> list[str]:
    return [shape for shape in scenes.SHAPES if _seen(scene, shape)]


def _any_shape(scene: scenes.Scene, rng: np.random.Generator) -> str:
    return str(rng.choice(_shapes(scene)))


def _one(masks: list[scenes.Mask], rng: np.random.Generator) -> scenes.Mask:
    return masks[int(rng.integers(len(masks)))]
