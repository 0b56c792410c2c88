"""What is loaded as a SAM3, what is known of it then, and which folders are refused."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workers.inference.models.sam3_answers import ours
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.models.torch_checkpoint import weights_sha256
from workers.inference.segmenters import ModelUnusable


def test_the_facts_name_model_weights_and_precision(segmenter: Sam3Segmenter) -> None:
    facts = segmenter.facts
    assert (facts.model, facts.revision, facts.dtype, facts.device) == ("tiny", None, "fp32", "cpu")
    assert len(facts.weights_sha256) == 64
    assert "\n" not in facts.text


def test_a_segmenter_that_is_dropped_frees_its_model_without_the_garbage_collector(checkpoint: Path) -> None:
    dropped = Sam3Segmenter(checkpoint, model_name="tiny")
    ours(dropped, [np.zeros((64, 64, 3), np.uint8)], [("person",)])
    model = weakref.ref(dropped._model)
    gc.disable()
    try:
        del dropped
        assert model() is None
    finally:
        gc.enable()


def test_the_weights_are_known_by_their_content(checkpoint: Path, segmenter: Sam3Segmenter, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert weights_sha256(copy) == segmenter.facts.weights_sha256
    save_file({"other": torch.zeros(1)}, copy / "model.safetensors")
    assert weights_sha256(copy) != segmenter.facts.weights_sha256


def damage_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def another_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def renamed_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["renamed"] = weights.pop(next(name for name in weights if "mask_decoder" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def misshapen_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "mask_decoder" in name)
    weights[name] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def no_processor(folder: Path) -> None:
    for path in folder.glob("*processor*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "no usable config.json"),
        (damage_config, "no usable config.json"),
        (another_model, "a bert model, not SAM3"),
        (no_weights, "no weights there"),
        (cut_weights, "cannot be loaded"),
        (renamed_weight, "1 weights are missing"),
        (misshapen_weight, "cannot be loaded"),
        (no_tokenizer, "no tokenizer there"),
        (no_processor, "cannot be loaded"),
    ],
)
def test_a_folder_that_holds_no_usable_model_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelUnusable, match=said) as refused:
        Sam3Segmenter(folder, model_name="tiny")
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
