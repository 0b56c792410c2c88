"""Finds the code for a checkpoint, in a table of model families by the `model_type` in the checkpoint's config.json.

Some families need two checkpoints, such as one that finds boxes and one that makes masks of them; their entry names
both types, with + between them. To add a family, write a module with a class that implements `protocol.Segmenter` and
give it a line in `FAMILIES`. Families are named and not imported, so that torch is imported only when a segmenter is
made.
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

_EVERYTHING = "workers.inference.models.mask_generation:EverythingSegmenter"
_SAM3 = "workers.inference.models.sam3_model:Sam3Segmenter"
_GROUNDED_SAM2 = "workers.inference.models.grounded_sam2:GroundedSam2Segmenter"

FAMILIES = {
    "sam3": _SAM3,
    "sam3_lite_text": _SAM3,  # with a small text encoder
    "sam3_video": _SAM3,  # the type of facebook/sam3, whose detector is a SAM3
    "grounding-dino+sam2": _GROUNDED_SAM2,
    "grounding-dino+sam2_video": _GROUNDED_SAM2,  # the type of facebook/sam2.1-hiera-small
    "mm-grounding-dino+sam2": _GROUNDED_SAM2,
    "mm-grounding-dino+sam2_video": _GROUNDED_SAM2,
}

# Those that make masks of points, for runs of everything.
EVERYTHING_FAMILIES = {
    "sam3_video": _EVERYTHING,  # with its tracker
    "sam3_tracker": _EVERYTHING,
    "sam2": _EVERYTHING,
    "sam2_video": _EVERYTHING,
}


class ModelUnusable(Unreachable):
    """The folder holds no model that can be loaded. The message is one line that says why."""


class Family(Protocol):
    """Makes segmenters from checkpoints of one family."""

    def __call__(
        self, *folders: Path, model_name: str, revision: str | None, device: str, dtype: Precision
    ) -> Segmenter:
        """Load the checkpoint in the folder, or those in the folders, to the `device` ("cpu" or "cuda"). Raises
        `ModelUnusable`."""


def family_of(*folders: Path, everything: bool = False) -> Family:
    """The family of the checkpoint in this folder, or of the pair of checkpoints in these folders.

    With `everything` it is the family that works without prompts. Raises `ModelUnusable` if no family can load it.
    """
    return cast(Family, named(family_name(*folders, everything=everything)))


def family_name(*folders: Path, everything: bool = False) -> str:
    """Where that family is, for `named`. Raises as `family_of` does."""
    kind, name = "+".join(map(model_type, folders)), "+".join(map(str, folders))
    families = EVERYTHING_FAMILIES if everything else FAMILIES
    if kind in families:
        return families[kind]
    known = ", ".join(sorted(families))
    if everything:
        raise ModelUnusable(f"model {name}: of type {kind}; --everything needs a model of type {known}")
    hint = "; with --everything it needs no prompt" if kind in EVERYTHING_FAMILIES else ""
    raise ModelUnusable(f"model {name}: of type {kind}; we have code for {known}{hint}")


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
