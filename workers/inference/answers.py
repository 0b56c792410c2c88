"""What a model answers about one image, and whether that can be one. Knows no models and no files.

The rules are strict, a last bit too much is a fault: a score of 1.0000001 comes from a segmenter that does not do what
it should, and databases refuse it too. A number of numpy is refused where a plain one is meant: SQLite would store it
as a string of bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

LARGEST_COORDINATE = 1e9  # pixels; what databases take too


@dataclass(frozen=True)
class Instance:
    """One object: `box` is x1, y1, x2, y2 in pixels (it may reach over the edge), `rle` has the image's size."""

    score: float
    box: tuple[float, float, float, float]
    area: int
    rle: bytes


@dataclass(frozen=True)
class Found:
    """What one prompt found in one image, best score first. `capped`: the model had hardly a query left, so there
    may be more."""

    presence: float
    instances: tuple[Instance, ...]
    capped: bool = False


def fault(answers: Sequence[Found], prompts: Sequence[str], width: int, height: int) -> str | None:
    """What is wrong with the answers to an image's prompts, in one line; None if nothing is. Sizes in pixels."""
    if len(answers) != len(prompts):
        return f"the model gave {len(answers)} answers to {len(prompts)} prompts"
    for found, prompt in zip(answers, prompts, strict=True):
        if not _share(found.presence):
            return _told("presence", found.presence, prompt, "a number from 0 to 1")
        for one in found.instances:
            if wrong := _wrong_instance(one, prompt, width * height):
                return wrong
    return None


def with_pixels(found: Found) -> Found:
    """The same without instances whose mask has no pixel at the image's size.

    A model, the library's too, gives a score to each of its queries, also where the mask's probability nowhere exceeds
    the mask threshold. Nothing of that can be drawn or exported, so an image with nothing else is empty.
    """
    if all(one.area for one in found.instances):
        return found
    return replace(found, instances=tuple(one for one in found.instances if one.area))


def _wrong_instance(one: Instance, prompt: str, pixels: int) -> str | None:
    if not _share(one.score):
        return _told("score", one.score, prompt, "a number from 0 to 1")
    if len(one.box) != 4 or not all(map(_coordinate, one.box)):
        return _told("box", one.box, prompt, f"four numbers of at most {LARGEST_COORDINATE:.0e}")
    if not isinstance(one.area, int) or not 0 <= one.area <= pixels:
        return _told("area", one.area, prompt, f"a whole number from 0 to {pixels:,}")
    if not isinstance(one.rle, bytes) or not one.rle:
        return _told("mask", one.rle, prompt, "a run-length encoding in bytes")
    return None


def _share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1  # which no NaN is


def _coordinate(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST_COORDINATE


def _told(what: str, value: object, prompt: str, wanted: str) -> str:
    hint = "; try --dtype fp32" if "nan" in f"{value!r}" or "inf" in f"{value!r}" else ""
    shown = f"{value!r}"
    return f"the model gave {shown[:60]} as a {what} for {prompt[:40]!r}, not {wanted}{hint}"
