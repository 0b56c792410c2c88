"""The full-size SAM3 of Hugging Face's default configuration with random weights, as a segmenter and as the plain loop.

Knows nothing of trained weights: whoever needs sensible masks loads a checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

from workers.inference.models import sam3_model
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.segmenters import Precision
from workers.tiny import architecture as tiny

GRID = 72  # the vision features of an image are so many by so many


def full_size(device: str, seed: int = 0, config: Sam3Config | None = None) -> tuple[Any, Sam3Processor]:
    """The model with 840 million random weights (on the meta device: none), fp32, and its processor.

    With a `config` it has that size instead.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = Sam3Model(config or Sam3Config())
    side = model.config.vision_config.backbone_config.image_size
    images = Sam3ImageProcessor(size={"height": side, "width": side})
    # The tiny model's tokenizer: which tokens a word has does not matter to random weights.
    return model.eval(), Sam3Processor(images, tiny.new_processor().tokenizer)


def segmenter_of(model: Any, processor: Any, device: str, dtype: Precision = "fp32") -> Sam3Segmenter:
    """A segmenter of a model that is in memory and in no folder."""
    with (
        mock.patch.object(sam3_model, "load", return_value=(model, processor)),
        mock.patch.object(sam3_model, "weights_sha256", return_value="0" * 64),
    ):
        return Sam3Segmenter(Path("memory"), model_name="random", device=device, dtype=dtype)


@torch.no_grad()
def plain_loop(model: Any, processor: Any, images: Sequence[Any], prompt: str, threshold: float = 0.5) -> Any:
    """The loop that people write: processor, model and the library's post-processing, one prompt at a time."""
    inputs = processor(images=list(images), text=[prompt] * len(images), return_tensors="pt").to(model.device)
    output = model(**inputs)
    sizes = [(image.height, image.width) for image in images]
    return processor.post_process_instance_segmentation(
        output, threshold=threshold, mask_threshold=0.5, target_sizes=sizes
    )
