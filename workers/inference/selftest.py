"""Whether a freshly loaded model computes at all, tried on a made-up image. Knows nothing of what it should find."""

import numpy as np

from workers.inference.answers import fault
from workers.inference.pipeline import Options, Segmenter

PROMPT = "person"
SIDE = 64  # pixels; it is brought to the model's size anyway


class SelfTestFailed(Exception):
    """The model ran but gave no usable answer; one line."""


def check(segmenter: Segmenter, passes: int = 1) -> None:
    """Raise `SelfTestFailed` for a malformed answer, or whatever the segmenter raises."""
    for _ in range(passes):
        _check_once(segmenter)


def _check_once(segmenter: Segmenter) -> None:
    ramp = np.linspace(0, 255, SIDE, dtype=np.uint8)
    image = np.stack([np.broadcast_to(ramp, (SIDE, SIDE))] * 3, axis=-1)
    options = Options(score_floor=0.0)  # so that it makes masks of all that it has, whatever that is
    raw = segmenter.predict([segmenter.preprocess(image)], [(PROMPT,)], options)
    answers = segmenter.postprocess(raw, range(1), options)
    if len(answers) != 1 or len(answers[0]) != 1:
        raise SelfTestFailed("the model's self-test failed: one image and one prompt did not give one answer")
    if wrong := fault(answers[0], (PROMPT,), SIDE, SIDE):
        raise SelfTestFailed(f"the model's self-test failed: {wrong}")
