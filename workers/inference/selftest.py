"""Tests on made-up images whether a model that was just loaded computes. Does not know what it should find."""

import numpy as np

from workers.inference.answers import Found, fault
from workers.inference.images import RGB
from workers.inference.pipeline import Options, Segmenter

PROMPT = "person"
SIDE = 64  # pixels; the image is resized for the model
EVERYTHING = Options(threshold=0.0, score_floor=0.0)  # so that masks are made, whatever the scores are
TINY = 1e-9  # smaller numbers count as 0
FURTHEST = 0.01  # relative difference that is allowed between two answers for the same image


class SelfTestFailed(Exception):
    """The model ran but gave no usable answer; one line."""


def check(segmenter: Segmenter, passes: int = 1) -> None:
    """Raise `SelfTestFailed` for a malformed answer, or whatever the segmenter raises.

    From three passes on, two images take turns: the same image must get the same answer, and the other image another
    one. So a model whose features are noise or a constant fails, although its numbers may look right.
    """
    answers = [_answer(segmenter, number % 2) for number in range(passes)]
    for number, answer in enumerate(answers[2:]):
        if answer == answers[number + 1]:
            raise SelfTestFailed("the model's self-test failed: two images got one and the same answer")
        if (far := _difference(answer, answers[number])) > FURTHEST:
            raise SelfTestFailed(f"the model's self-test failed: one image got two answers, {far:.0%} apart")


def _answer(segmenter: Segmenter, number: int) -> Found:
    raw = segmenter.predict([segmenter.preprocess(_picture(number))], [(PROMPT,)], EVERYTHING)
    answers = segmenter.postprocess(raw, range(1), EVERYTHING)
    if len(answers) != 1 or len(answers[0]) != 1:
        raise SelfTestFailed("the model's self-test failed: one image and one prompt did not give one answer")
    if wrong := fault(answers[0], (PROMPT,), SIDE, SIDE):
        raise SelfTestFailed(f"the model's self-test failed: {wrong}")
    return answers[0][0]


def _picture(number: int) -> RGB:
    """Image 0 gets brighter to the right, image 1 downwards."""
    ramp = np.linspace(0, 255, SIDE, dtype=np.uint8)
    grey = np.broadcast_to(ramp, (SIDE, SIDE))
    return np.stack([grey.T if number else grey] * 3, axis=-1)


def _difference(one: Found, other: Found) -> float:
    """The largest relative difference of presence, best score and area of all masks. It is relative, because a model
    that finds nothing in these images gives very small numbers."""
    pairs = zip(_numbers(one), _numbers(other), strict=True)
    return max(abs(left - right) / max(left, right, TINY) for left, right in pairs)


def _numbers(found: Found) -> tuple[float, float, int]:
    best = max((instance.score for instance in found.instances), default=0.0)
    return found.presence, best, sum(instance.area for instance in found.instances)
