"""Boxes that come with an image and show a model what to look for in it, or what not. Knows no model and no pixels."""

from collections.abc import Sequence
from typing import NamedTuple

SLACK = 1.0  # pixels that a box may reach beyond its image: some programs count them from 1, or round


class Box(NamedTuple):
    """A rectangle in pixels of the image as it is segmented, after the orientation rule; x to the right, y down."""

    x1: float
    y1: float
    x2: float
    y2: float
    positive: bool  # shows what to look for; else what not to


def fault(boxes: Sequence[Box], width: int, height: int) -> str | None:
    """Why these boxes are not boxes of an image of this size in pixels, in one line; None if they are.

    A box that reaches beyond its image is most often one of the picture at another size, or before it was turned.
    """
    for x1, y1, x2, y2, _ in boxes:
        if min(x1, y1) < -SLACK or x2 > width + SLACK or y2 > height + SLACK:
            shown = ", ".join(f"{edge:g}" for edge in (x1, y1, x2, y2))
            return f"the box {shown} reaches beyond the image, which has {width} x {height} pixels as it is segmented"
    return None
