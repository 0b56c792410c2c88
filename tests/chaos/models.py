"""The two models of chaos, without weights or torch. Each answers in its own way, so that a wrong one would be seen.

Nodes load them by the names that runs give: `SAM3_SEGMENTER=tests.chaos.models:made`.
"""

from dataclasses import replace
from zlib import crc32

import numpy as np

from tests.fakes import FaultySegmenter
from workers.inference.answers import Found
from workers.inference.protocol import Options, Pixels
from workers.inference.reading.images import RGB
from workers.inference.shapes.masks import encode
from workers.settings import Settings

SHAPES, FRAMES = "any/shapes", "any/frames"
ROOM = 100  # pixels: in a wider picture the models say that they may have missed something


class Shapes(FaultySegmenter):
    """One instance with all that is bright, and a score that tells the prompt and the boxes."""

    def __init__(self, model: str, settings: Settings) -> None:
        super().__init__(model, settings)
        self.facts = replace(self.facts, takes_boxes=True)

    def postprocess(
        self, raw: list[tuple[Pixels, tuple[str, ...]]], rows: range, options: Options
    ) -> list[tuple[Found, ...]]:
        chosen = raw[rows.start : rows.stop]
        return [tuple(self._answer(pixels, prompt, options) for prompt in prompts) for pixels, prompts in chosen]

    def _answer(self, pixels: Pixels, prompt: str, options: Options) -> Found:
        found = self._found(pixels.data, options)
        asked = f"{prompt} {[[float(edge) for edge in box] for box in pixels.boxes]}"
        score = 0.6 + crc32(asked.encode()) % 1000 / 4000
        instances = tuple(replace(one, score=score) for one in found.instances)
        return replace(found, instances=instances, capped=pixels.data.shape[1] > ROOM)


class Frames(Shapes):
    """The same with the rectangle around it as the mask. It has other weights."""

    def __init__(self, model: str, settings: Settings) -> None:
        super().__init__(model, settings)
        self.facts = replace(self.facts, weights_sha256="b" * 64)

    def _found(self, image: RGB, options: Options) -> Found:
        found = super()._found(image, options)
        if not found.instances:
            return found
        [instance] = found.instances
        x1, y1, x2, y2 = map(int, instance.box)
        mask = np.zeros(image.shape[:2], bool)
        mask[y1:y2, x1:x2] = True
        filled = replace(instance, area=int(mask.sum()), rle=encode(mask))
        return replace(found, presence=0.7, instances=(filled,))


def made(model: str, settings: Settings) -> FaultySegmenter:
    """The model of this name."""
    return {SHAPES: Shapes, FRAMES: Frames}[model](model, settings)
