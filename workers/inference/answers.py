"""The answers of a model about one image, and the check that they are valid. Knows no models and no files.

The check is strict: a score of 1.0000001 shows that a segmenter does not work as it should, and databases refuse it,
too. A number of a numpy type is refused where a plain Python number is needed, as SQLite would store its bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

LARGEST_COORDINATE = 1e9  # pixels; the same limit as in `db.columns`


@dataclass(frozen=True)
class Instance:
    """One object that was found."""

    score: float  # 0 to 1
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels; it may reach beyond the image
    area: int  # pixels
    rle: bytes  # compressed COCO RLE counts of a mask of the image's height x width


@dataclass(frozen=True)
class Found:
    """What one prompt found in one image."""

    presence: float  # 0 to 1: how likely it is that the image shows the prompt at all
    instances: tuple[Instance, ...]  # highest score first
    capped: bool = False  # so many were found that the model's limit may have hidden others


def fault(answers: Sequence[Found], prompts: Sequence[str], width: int, height: int) -> str | None:
    """What is wrong with a model's answers to an image's prompts, in one line; None if they are valid.

    `width` and `height` are those of the image, in pixels.
    """
    if len(answers) != len(prompts):
        return f"the model gave {len(answers)} answers to {len(prompts)} prompts"
    for found, prompt in zip(answers, prompts, strict=True):
        if not _is_probability(found.presence):
            return _told("presence", found.presence, prompt, "a number from 0 to 1")
        for instance in found.instances:
            if wrong := _wrong_instance(instance, prompt, width * height):
                return wrong
    return None


def with_pixels(found: Found) -> Found:
    """Leave out instances whose mask has no pixel at the image's size.

    A model gives a score to each of its queries, even if no pixel of its mask exceeds the mask threshold. Such an
    instance can be neither drawn nor exported, so an image that has no other instance is empty.
    """
    if all(instance.area for instance in found.instances):
        return found
    return replace(found, instances=tuple(instance for instance in found.instances if instance.area))


def _wrong_instance(instance: Instance, prompt: str, pixels: int) -> str | None:
    if not _is_probability(instance.score):
        return _told("score", instance.score, prompt, "a number from 0 to 1")
    if len(instance.box) != 4 or not all(map(_is_coordinate, instance.box)):
        return _told("box", instance.box, prompt, f"four numbers of at most {LARGEST_COORDINATE:.0e}")
    if not isinstance(instance.area, int) or not 0 <= instance.area <= pixels:
        return _told("area", instance.area, prompt, f"a whole number from 0 to {pixels:,}")
    if not isinstance(instance.rle, bytes) or not instance.rle:
        return _told("mask", instance.rle, prompt, "a run-length encoding in bytes")
    return None


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1  # false for NaN


def _is_coordinate(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST_COORDINATE


def _told(what: str, value: object, prompt: str, wanted: str) -> str:
    hint = "; try --dtype fp32" if "nan" in f"{value!r}" or "inf" in f"{value!r}" else ""
    shown = f"{value!r}"
    return f"the model gave {shown[:60]} as a {what} for {prompt[:40]!r}, not {wanted}{hint}"
