"""Loads a SAM3 checkpoint from its folder, or says in one line what is wrong with it. Runs nothing."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import Sam3LiteTextModel, Sam3Model, Sam3Processor
from transformers.utils import logging as transformers_logging

from workers.inference.segmenters import ModelUnusable, model_type

# By the `model_type` of a checkpoint. Of a `sam3_video`, `Sam3Model` takes the detector.
KINDS: dict[str, Any] = {"sam3": Sam3Model, "sam3_lite_text": Sam3LiteTextModel, "sam3_video": Sam3Model}


def load(folder: Path) -> tuple[Any, Any]:
    """Model (fp32, on the CPU) and processor, from safetensors only and without any code of the checkpoint's."""
    kind = _check_folder(folder)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    try:
        # Any: the library's stubs know neither the loading report nor the processor's parts.
        loaded: Any = KINDS[kind].from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        processor: Any = Sam3Processor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        images = processor.image_processor
        usual = images.do_resize and images.do_rescale and images.do_normalize and images.size["height"]
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelUnusable(
            f"model {folder}: cannot be loaded ({type(error).__name__}: {reason}); download it again"
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"model {folder}: {len(missing)} weights are missing, {missing[0]} for one; not a complete SAM3"
        )
    if not usual:
        raise ModelUnusable(f"model {folder}: its image processor does not resize, rescale and normalise")
    return model.eval(), processor


def _check_folder(folder: Path) -> str:
    """The kind of model that this folder holds."""
    if (kind := model_type(folder)) not in KINDS:
        raise ModelUnusable(f"model {folder}: a {kind} model, not SAM3")
    if not _weight_files(folder):
        raise ModelUnusable(f"model {folder}: no weights there (model.safetensors)")
    # Without its files the library quietly makes a tokenizer that knows no words.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelUnusable(f"model {folder}: no tokenizer there (tokenizer.json)")
    return kind


def _weight_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("model-*.safetensors"))


def weights_sha256(folder: Path) -> str:
    """The weights' name whatever the folder: one file's sha256 (the Hub shows the same), or that of its parts'."""
    digests = []
    for path in _weight_files(folder):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
