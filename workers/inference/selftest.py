"""Whether a freshly loaded model computes at all, tried on made-up images. Knows nothing of what it should find."""

import numpy as np

from workers.inference.answers import Found, fault
from workers.inference.images import RGB
from workers.inference.pipeline import Options, Segmenter

PROMPT = "person"
SIDE = 64  # pixels; it is brought to the model's size anyway
EVERYTHING = Options(threshold=0.0, score_floor=0.0)  # so that masks are made, whatever the model makes of the images
TINY = 1e-9  # smaller numbers are as good as none
FURTHEST = 0.01  # of itself, that a number may differ when the same image comes again


class SelfTestFailed(Exception):
    """The model ran but gave no usable answer; one line."""


def check(segmenter: Segmenter, passes: int = 1) -> None:
    """Raise `SelfTestFailed` for a malformed answer, or whatever the segmenter raises.

    From three passes on it is seen, too, whether the answer is the image's: two images take turns, and one that comes
    again gets its answer again, which is not the other one's. Noise or a constant in the place of features would give
    numbers that look sound.
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
    """One that grows brighter to the right, and one that does so downwards."""
    ramp = np.linspace(0, 255, SIDE, dtype=np.uint8)
    grey = np.broadcast_to(ramp, (SIDE, SIDE))
    return np.stack([grey.T if number else grey] * 3, axis=-1)


def _difference(one: Found, other: Found) -> float:
    """The largest, of itself, of presence, best score and what masks cover: a model that sees nothing in these images
    gives small numbers, and they have to be the same small numbers."""
    pairs = zip(_numbers(one), _numbers(other), strict=True)
    return max(abs(left - right) / max(left, right, TINY) for left, right in pairs)


def _numbers(found: Found) -> tuple[float, float, int]:
    best = max((instance.score for instance in found.instances), default=0.0)
    return found.presence, best, sum(instance.area for instance in found.instances)
