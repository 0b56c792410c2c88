"""Finds the code for a checkpoint, in a table of model families by the `model_type` in the checkpoint's config.json.

To add a family, write a module with a class that implements `pipeline.Segmenter` and give it a line in `FAMILIES`.
Families are named and not imported, so that torch is imported only when a segmenter is made.
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from sam3_start import QuickImports
from workers.errors import Unreachable
from workers.inference.protocol import Segmenter

Precision = Literal["auto", "mixed", "fp32", "bf16"]

FAMILIES = {
    "sam3": "workers.inference.sam3_model:Sam3Segmenter",
    "sam3_lite_text": "workers.inference.sam3_model:Sam3Segmenter",  # with a small text encoder
    "sam3_video": "workers.inference.sam3_model:Sam3Segmenter",  # the type of facebook/sam3, whose detector is a SAM3
}


class ModelUnusable(Unreachable):
    """The folder holds no model that can be loaded. The message is one line that says why."""


class Family(Protocol):
    """Makes segmenters from checkpoints of one family."""

    def __call__(
        self, folder: Path, *, model_name: str, revision: str | None, device: str, dtype: Precision
    ) -> Segmenter:
        """Load the checkpoint in `folder` to the `device` ("cpu" or "cuda"). Raises `ModelUnusable`."""


def family_of(folder: Path) -> Family:
    """The family of the checkpoint in this folder. Raises `ModelUnusable` if none can load it."""
    kind = model_type(folder)
    if kind not in FAMILIES:
        raise ModelUnusable(f"model {folder}: a {kind} model, not SAM3")
    return cast(Family, named(FAMILIES[kind]))


def model_type(folder: Path) -> str:
    """The `model_type` in a checkpoint's config.json. Raises `ModelUnusable` if that cannot be read."""
    try:
        return str(json.loads((folder / "config.json").read_bytes())["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelUnusable(f"model {folder}: no usable config.json there; is it a model's folder?") from None


def named(name: str) -> Callable[..., Any]:
    """Import the function or class with a name such as `package.module:factory`."""
    module, _, factory = name.partition(":")
    with QuickImports():
        return cast(Callable[..., Any], getattr(importlib.import_module(module), factory))
