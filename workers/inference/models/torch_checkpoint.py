"""Loads a model of transformers from its folder, or says in one line what is wrong with it. Runs nothing."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from workers.inference.segmenters import ModelUnusable


def load(folder: Path, kind: Any, processor: Any, *, name: str, words: bool = True, **how: Any) -> tuple[Any, Any]:
    """Model (fp32, on the CPU) and processor, from safetensors only and without any code of the checkpoint's.

    `kind` and `processor` are their classes in transformers, `name` is what the folder should hold. `words`: it has a
    tokenizer. `how` goes to the model's `from_pretrained`. Raises `ModelUnusable`.
    """
    _check_files(folder, words=words)
    try:
        # Any: the library's stubs know neither the loading report nor the processor's parts.
        with _quiet():
            loaded: Any = kind.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **how,
            )
        made: Any = processor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        images = made.image_processor
        usual = images.do_resize and images.do_rescale and images.do_normalize and images.size
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
            f"model {folder}: {len(missing)} weights are missing, {missing[0]} for one; not a complete {name}"
        )
    if not usual:
        raise ModelUnusable(f"model {folder}: its image processor does not resize, rescale and normalise")
    return model.eval(), made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar, and without its warning that the image part of a video model is loaded: that
    is meant, and whether weights are missing is checked here."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _check_files(folder: Path, *, words: bool) -> None:
    if not _weight_files(folder):
        raise ModelUnusable(f"model {folder}: no weights there (model.safetensors)")
    # Without its files the library quietly makes a tokenizer that knows no words.
    if words and not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise ModelUnusable(f"model {folder}: no tokenizer there (tokenizer.json)")


def weight_names(folder: Path) -> set[str]:
    """What the weights in the folder are called. Reads none of them."""
    names: set[str] = set()
    for path in _weight_files(folder):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def _weight_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("model-*.safetensors"))


def weights_sha256(*folders: Path) -> str:
    """The weights' name wherever they are: one file's sha256 (the Hub shows the same), or that of all files' ones."""
    digests = []
    for path in (path for folder in folders for path in _weight_files(folder)):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
