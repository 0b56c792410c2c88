"""Reads the boxes in a cell: JSON text, or the lists and objects that JSON Lines and Parquet have. Knows no image."""

import json
import math
from collections.abc import Iterator
from typing import Any

from db.values import GivenBox
from producer.sources.rows.cells import BadRow
from workers.errors import ErrorClass

VISUAL = "visual"  # the prompt of boxes without a text, as in the library's processor
BOXES_AT_MOST = 100  # of a row
_FORM = "write [[x1, y1, x2, y2], ...], or those in an object with positive and negative"


def read_boxes(cell: Any) -> tuple[GivenBox, ...] | None:
    """The boxes of a cell, positive ones first; None if it has none. Raises `BadRow`.

    A list holds positive boxes, an object has such lists as `positive` and `negative`. A text is the JSON of either.
    """
    value = _parsed(cell) if isinstance(cell, str) else cell
    if value is None:
        return None
    kinds = value if isinstance(value, dict) else {"positive": value}
    if not kinds.keys() <= {"positive", "negative"}:
        raise _bad(f"the boxes are an object with {', '.join(sorted(kinds))}; {_FORM}")
    boxes = tuple(box for kind in ("positive", "negative") for box in _of_kind(kinds.get(kind), kind == "positive"))
    if len(boxes) > BOXES_AT_MOST:
        raise _bad(f"{len(boxes):,} boxes; give at most {BOXES_AT_MOST}")
    return boxes or None


def _parsed(text: str) -> Any:
    if not text or text.isspace():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _bad(f"the boxes are no JSON; {_FORM}") from None


def _of_kind(boxes: Any, positive: bool) -> Iterator[GivenBox]:
    if boxes is None:
        return
    if not isinstance(boxes, list):
        raise _bad(f"the boxes are no list; {_FORM}")
    for box in boxes:
        if not (isinstance(box, list) and len(box) == 4):
            raise _bad(f"a box is no list of four numbers; {_FORM}")
        x1, y1, x2, y2 = map(_number, box)
        if x1 >= x2 or y1 >= y2:
            shown = ", ".join(f"{edge:g}" for edge in (x1, y1, x2, y2))
            raise _bad(f"the box {shown} has no area; write x1, y1, x2, y2 with x1 below x2 and y1 below y2")
        yield x1, y1, x2, y2, positive


def _number(edge: Any) -> float:
    if isinstance(edge, int | float) and not isinstance(edge, bool):
        try:
            number = float(edge)
        except OverflowError:  # a whole number of hundreds of digits
            number = math.inf
        if math.isfinite(number):
            return number
    raise _bad("a box holds what is no finite number; write four numbers of pixels, x1, y1, x2, y2")


def _bad(fault: str) -> BadRow:
    return BadRow(ErrorClass.BAD_BOX, fault)
