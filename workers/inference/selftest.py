"""Tests on made-up images whether a model that was just loaded computes. Does not know what it should find."""

from dataclasses import replace

import numpy as np

from workers.inference.answers import Found, fault
from workers.inference.protocol import Options, OutOfMemory, Segmenter
from workers.inference.reading.images import RGB

PROMPT = "person"
SIDE = 64  # pixels; the image is resized for the model
# Masks are made, whatever the scores are; without prompts, of few points.
ALL_SCORES = Options(threshold=0.0, score_floor=0.0, points_per_side=2)
TINY = 1e-9  # smaller numbers count as 0
FURTHEST = 0.01  # relative difference that is allowed between two answers for the same image
FURTHEST_COMPILED = 0.1  # the same, if one of the answers is of compiled kernels, which round elsewhere


class SelfTestFailed(Exception):
    """The model ran but gave no usable answer; one line."""


def check(segmenter: Segmenter, passes: int = 1, *, compiled: bool = False) -> None:
    """Raise `SelfTestFailed` for a malformed answer, or whatever the segmenter raises.

    From three passes on, two images take turns: the same image must get the same answer, and the other image another
    one. So a model whose features are noise or a constant fails, although its numbers may look right.
    """
    options = replace(ALL_SCORES, compiled=compiled)
    answers = [_answer(segmenter, number % 2, options) for number in range(passes)]
    for number, answer in enumerate(answers[2:]):
        if answer == answers[number + 1]:
            raise SelfTestFailed("the model's self-test failed: two images got one and the same answer")
        if (far := _difference(answer, answers[number])) > FURTHEST:
            raise SelfTestFailed(f"the model's self-test failed: one image got two answers, {far:.0%} apart")


def fits_compiled(segmenter: Segmenter, images: int) -> bool:
    """Whether there is memory for a batch of so many images with compiled kernels, which are made by this. Raises
    `SelfTestFailed` if their answer is another one than the answer without them."""
    plain = _answer(segmenter, 0, ALL_SCORES)
    try:
        compiled = _answer(segmenter, 0, replace(ALL_SCORES, compiled=True), images)
    except OutOfMemory:
        return False
    if (far := _difference(plain, compiled)) > FURTHEST_COMPILED:
        raise SelfTestFailed(
            f"the compiled model's self-test failed: its answer is {far:.0%} from the uncompiled one's"
        )
    return True


def _answer(segmenter: Segmenter, number: int, options: Options, images: int = 1) -> Found:
    """The answer for the first image of a batch of equal ones."""
    batch = [segmenter.preprocess(_picture(number))] * images
    raw = segmenter.predict(batch, [(PROMPT,)] * images, options)
    answers = segmenter.postprocess(raw, range(1), options)
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
