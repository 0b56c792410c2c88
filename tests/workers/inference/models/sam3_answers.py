"""What the tests of SAM3 compare: its answers, those of the plain library loop, and how often the model ran."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from workers.inference.answers import Found
from workers.inference.models import sam3_heads, sam3_model
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.inference.reading.images import RGB
from workers.inference.shapes import masks

OPTIONS = Options(threshold=0.5, score_floor=0.3)
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Library:
    """The plain loop that people write: one image and one prompt at a time."""

    model: Any
    processor: Any

    @torch.no_grad()
    def __call__(self, pixels: RGB, prompt: str, threshold: float = OPTIONS.threshold) -> dict[str, torch.Tensor]:
        inputs = self.processor(images=Image.fromarray(pixels), text=prompt, return_tensors="pt")
        output = self.model(**inputs)
        found: dict[str, torch.Tensor] = self.processor.post_process_instance_segmentation(
            output, threshold=threshold, mask_threshold=OPTIONS.mask_threshold, target_sizes=[pixels.shape[:2]]
        )[0]
        return found


def ours(
    segmenter: Sam3Segmenter, pictures: Sequence[RGB], prompts: Sequence[tuple[str, ...]], options: Options = OPTIONS
) -> list[tuple[Found, ...]]:
    """What one batch gives."""
    batch = [segmenter.preprocess(pixels) for pixels in pictures]
    return segmenter.postprocess(segmenter.predict(batch, prompts, options), range(len(batch)), options)


def assert_equal_to_library(found: Found, theirs: dict[str, torch.Tensor], threshold: float = 0.5) -> int:
    """Compare every instance that is not within the tolerance of the threshold; returns how many there were."""
    mine = [one for one in found.instances if one.score > threshold + SCORE_TOLERANCE]
    sure = (theirs["scores"] > threshold + SCORE_TOLERANCE).nonzero().flatten().tolist()
    assert len(mine) == len(sure)
    height, width = theirs["masks"].shape[1:]
    for index in sure:
        box = theirs["boxes"][index].numpy()
        nearest = min(mine, key=lambda one: float(np.abs(np.array(one.box) - box).max()))
        mine.remove(nearest)
        assert nearest.score == pytest.approx(theirs["scores"][index].item(), abs=SCORE_TOLERANCE)
        assert nearest.box == pytest.approx(box.tolist(), abs=0.05)
        mask = theirs["masks"][index].numpy().astype(bool)
        assert masks.iou(nearest.rle, masks.encode(mask), height, width) >= 0.999
        assert nearest.area == pytest.approx(mask.sum(), rel=0.001)
    return len(sure)


def same(one: Found, other: Found) -> bool:
    """Whether two ways of batching gave the same, but for the last bits of a float."""
    return (
        len(one.instances) == len(other.instances) >= 3
        and one.presence == pytest.approx(other.presence, abs=1e-5)
        and all(
            left.score == pytest.approx(right.score, abs=1e-5)
            and left.box == pytest.approx(right.box, abs=1e-2)
            and left.area == pytest.approx(right.area, rel=1e-3, abs=2)
            for left, right in zip(one.instances, other.instances, strict=True)
        )
    )


def last(raw: sam3_model._Raw) -> sam3_heads.Heads:
    """What the last run of the heads left, before anything of it was asked for."""
    assert raw.last is not None
    return raw.last


@contextmanager
def counted(segmenter: Sam3Segmenter) -> Iterator[Counter[str]]:
    """Count the runs of the whole model and of its two encoders."""
    calls: Counter[str] = Counter()
    model = segmenter._model
    parts = {"heads": model, "vision": model.vision_encoder, "text": model.text_encoder}
    hooks = [part.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, part in parts.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
