"""Stand-ins for what cannot exist everywhere: a segmenter without weights or torch, as slow as its environment says."""

import os
import time
from collections.abc import Sequence

import numpy as np

from workers.inference.images import RGB
from workers.inference.masks import encode
from workers.inference.pipeline import Found, Instance, ModelFacts, Options, Pixels
from workers.settings import Settings

LONGEST_PROMPT_WORDS = 32


class FakeSegmenter:
    """Finds one instance a prompt where the image is bright, none where it is dark all over; knows no learning.

    FAKE_SECONDS_PER_IMAGE makes its forward pass slow, so that tests can interrupt it.
    """

    def __init__(self, model: str = "fake", settings: Settings | None = None) -> None:
        self.facts = ModelFacts(model, None, "0" * 64, "fp32", "cpu")
        self.forwards: list[int] = []  # batch sizes, in order
        self._seconds = float(os.environ.get("FAKE_SECONDS_PER_IMAGE", "0"))

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        return {prompt: "too many words" for prompt in prompts if len(prompt.split()) > LONGEST_PROMPT_WORDS}

    def preprocess(self, image: RGB) -> Pixels:
        return Pixels(image, image.shape[0], image.shape[1])

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        self.forwards.append(len(batch))
        time.sleep(self._seconds * len(batch))
        return list(zip(batch, prompts, strict=True))

    def postprocess(
        self, raw: list[tuple[Pixels, tuple[str, ...]]], rows: range, options: Options
    ) -> list[tuple[Found, ...]]:
        chosen = raw[rows.start : rows.stop]
        return [tuple(self._found(pixels.data, options) for _ in prompts) for pixels, prompts in chosen]

    def _found(self, image: RGB, options: Options) -> Found:
        mask = np.asarray(image.mean(axis=2) > 128)
        if not mask.any():
            return Found(presence=0.1, instances=())
        rows, columns = np.nonzero(mask)
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        rle = encode(mask)
        return Found(presence=0.9, instances=(Instance(0.8, box, int(mask.sum()), rle),))
