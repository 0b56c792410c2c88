"""SAM3 on the simulated accelerator: all that runs on the CPU is real, the model is a wait.

For machines without a GPU. Nothing measured with it says how fast a GPU is; it says how much of one's time is used.
`SAM3_SEGMENTER=benchmarks.accelerator:factory` puts it into real workers, set up by these variables:
BENCH_FIXED_MS, BENCH_IMAGE_MS, and BENCH_DEVICE_LOG, a file that gets a line for each batch.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor
from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput, Sam3VisionEncoderOutput

from benchmarks.device import FIXED_MS, IMAGE_MS, Device, wait
from workers.inference.models.sam3_model import Sam3Segmenter, _Raw
from workers.inference.models.sam3_parts import Compiled, Plain
from workers.inference.models.torch_copies import Copies
from workers.inference.models.torch_pixels import Pictures
from workers.inference.protocol import ModelFacts, Options, Pixels
from workers.settings import Settings

MASK_SIDE = 288  # of SAM3's own masks
# Three objects of 5 to 15 % of the frame: centre and half axes of an ellipse, as fractions of width and height.
OBJECTS = ((0.30, 0.40, 0.16, 0.26), (0.70, 0.35, 0.10, 0.20), (0.60, 0.75, 0.20, 0.12))


class SimulatedSegmenter(Sam3Segmenter):
    """`Sam3Segmenter` with another model, so that all its own work on the CPU is done.

    Every image has the same three objects, for every prompt. Only normalising is left out, which the device would do.
    """

    def __init__(self, device: Device) -> None:
        # Not the real one's: there are no weights to load.
        self._dtype = "fp32"
        self._model = _Model(device)
        self._device, self._copies = torch.device("cpu"), _Copies(torch.device("cpu"))
        self._pictures = Pictures(Sam3ImageProcessor(), self._device)
        self._texts: Any = _Texts()
        self._plain = Plain(self._model)
        self._compiled = Compiled(self._plain, "simulated")
        self._facts = ModelFacts("simulated", None, "0" * 64, "simulated", "simulated")

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        return {}

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> _Raw:
        """Return while the device works, as the real one does on a GPU; who makes the masks waits for it."""
        return replace(super().predict(batch, prompts, options), done=self._model.submitted)

    def _to_device(self, batch: Sequence[Pixels], rows: int | None = None) -> torch.Tensor:
        return torch.from_numpy(np.stack([pixels.data for pixels in batch]))


class _Copies(Copies):
    """What waits for a batch waits for the simulated device."""

    @contextmanager
    def beside_the_next_batch(self, done: Any) -> Iterator[None]:
        wait(done)
        yield


class _Texts:
    """Prompts that are all of one length, and known."""

    def learn(self, prompts: Iterable[str]) -> None:
        pass

    def __getitem__(self, prompt: str) -> torch.Tensor:
        return torch.zeros(1, 1)


class _Model:
    """What `Sam3Segmenter` uses of a `Sam3Model`: a batch of the device's time, and the same for every image."""

    # Where its positions would come from.
    vision_encoder = SimpleNamespace(neck=SimpleNamespace(position_encoding=lambda *_: None))

    def __init__(self, device: Device) -> None:
        self._device = device

    def get_vision_features(self, pixels: torch.Tensor) -> Sam3VisionEncoderOutput:
        self.submitted = self._device.submit(len(pixels))
        return Sam3VisionEncoderOutput(fpn_hidden_states=(pixels, pixels))

    def __call__(self, vision_embeds: Sam3VisionEncoderOutput, **_: Any) -> Any:
        return model_output(len(vision_embeds.fpn_hidden_states[0]))


@lru_cache
def model_output(images: int) -> Any:
    """What the model returns for a batch, with as many queries as there are objects instead of 200. Made once: making
    it is no work of the host's."""
    masks, boxes = _objects()
    count = len(OBJECTS)
    return Sam3ImageSegmentationOutput(
        pred_masks=masks.expand(images, -1, -1, -1),
        pred_boxes=boxes.expand(images, -1, -1),
        pred_logits=torch.full((images, count), 3.0),
        presence_logits=torch.full((images, 1), 3.0),
    )


def _objects() -> tuple[torch.Tensor, torch.Tensor]:
    """Mask logits of shape (objects, side, side), and boxes as fractions."""
    middle = (torch.arange(MASK_SIDE) + 0.5) / MASK_SIDE
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    ripple = 0.1 * torch.sin(40 * x) * torch.sin(40 * y)  # an outline that is no mere ellipse
    masks = [8 * (1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2 + ripple) for cx, cy, rx, ry in OBJECTS]
    boxes = [(cx - rx, cy - ry, cx + rx, cy + ry) for cx, cy, rx, ry in OBJECTS]
    return torch.stack(masks).clamp(-8, 8), torch.tensor(boxes)


def factory(model: str, settings: Settings) -> SimulatedSegmenter:
    """What a worker loads; set up by the environment."""
    log = os.environ.get("BENCH_DEVICE_LOG")
    fixed, image = (
        float(os.environ.get(name, usual))
        for name, usual in (("BENCH_FIXED_MS", FIXED_MS), ("BENCH_IMAGE_MS", IMAGE_MS))
    )
    return SimulatedSegmenter(Device(fixed, image, Path(log) if log else None))
