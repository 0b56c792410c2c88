"""Loads a SAM3 checkpoint, of whichever kind, from its folder. Runs nothing."""

from pathlib import Path
from typing import Any

from transformers import Sam3LiteTextModel, Sam3Model, Sam3Processor

from workers.inference.models import torch_checkpoint
from workers.inference.segmenters import ModelUnusable, model_type

# By the `model_type` of a checkpoint. Of a `sam3_video`, `Sam3Model` takes the detector.
KINDS: dict[str, Any] = {"sam3": Sam3Model, "sam3_lite_text": Sam3LiteTextModel, "sam3_video": Sam3Model}


def load(folder: Path) -> tuple[Any, Any]:
    """Model (fp32, on the CPU) and processor. Raises `ModelUnusable`."""
    if (kind := model_type(folder)) not in KINDS:
        raise ModelUnusable(f"model {folder}: a {kind} model, not SAM3")
    return torch_checkpoint.load(folder, KINDS[kind], Sam3Processor, name="SAM3", attn_implementation="sdpa")
