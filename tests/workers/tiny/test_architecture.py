"""The tiny checkpoint's files: the library loads them as it loads facebook/sam3."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data
from transformers import Sam3Model, Sam3Processor

from workers.tiny import architecture, files, vocabulary


def photo(name: str) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = getattr(data, name)()
    return pixels


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    architecture.write_random_checkpoint(folder)
    return folder


def test_the_library_reports_nothing_missing_unexpected_or_mismatched(random_checkpoint: Path) -> None:
    loaded: Any = Sam3Model.from_pretrained(
        random_checkpoint, trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    _, report = loaded
    assert {kind: keys for kind, keys in report.items() if keys} == {}


def test_the_folder_is_laid_out_like_facebook_sam3(random_checkpoint: Path) -> None:
    config = json.loads((random_checkpoint / "config.json").read_text())
    assert config["model_type"] == "sam3_video"
    assert config["detector_config"]["model_type"] == "sam3"
    assert (random_checkpoint / "model.safetensors").stat().st_size < 6_000_000


def test_a_written_model_answers_as_the_one_in_memory(tmp_path: Path) -> None:
    model = architecture.random_model(seed=3)
    architecture.write_checkpoint(tmp_path, model)
    loaded, processor = architecture.load_checkpoint(tmp_path)
    assert next(loaded.parameters()).dtype == torch.float32
    inputs = processor(images=photo("astronaut"), text="person", return_tensors="pt")
    with torch.inference_mode():
        before, after = model(**inputs), loaded(**inputs)
    # The files hold half precision: three digits.
    torch.testing.assert_close(after.pred_boxes, before.pred_boxes, atol=5e-3, rtol=0)


def test_a_folder_without_some_weights_is_refused(tmp_path: Path) -> None:
    model = architecture.new_model()
    del model.text_projection
    architecture.write_checkpoint(tmp_path, model)
    with pytest.raises(ValueError, match=r"do not fit the model.*text_projection"):
        architecture.load_checkpoint(tmp_path)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_checkpoint_finds_several_partial_masks_in_every_photograph(tmp_path: Path, seed: int) -> None:
    architecture.write_random_checkpoint(tmp_path, seed)
    model, processor = architecture.load_checkpoint(tmp_path)
    for name in ("astronaut", "coffee", "chelsea", "rocket", "retina"):
        photograph = photo(name)
        inputs = processor(images=[photograph] * 2, text=["person", "cat"], return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs)
        results = processor.post_process_instance_segmentation(  # type: ignore[no-untyped-call]
            outputs, threshold=0.5, target_sizes=[photograph.shape[:2]] * 2
        )
        for result in results:
            assert 3 <= len(result["scores"]) <= 50
            covered = result["masks"].float().mean(dim=(1, 2))
            assert ((covered > 0.02) & (covered < 0.98)).all()


def test_the_same_seed_makes_the_same_random_model() -> None:
    first, second = architecture.random_model(5).state_dict(), architecture.random_model(5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_any_text_is_encoded_and_scene_words_are_single_tokens() -> None:
    tokenizer = architecture.new_processor().tokenizer
    for word in vocabulary.SCENE_WORDS.split():
        assert tokenizer.tokenize(word) == [word + vocabulary.WORD_END]
    for text in ("a cup of coffee", "Zebra", "ünïcode", "猫 🐈", "\x00\x7f"):
        ids = tokenizer(text).input_ids
        assert max(ids) < len(vocabulary.vocabulary())
        unknown_or_end = [number for number in ids if number == tokenizer.eos_token_id]
        assert len(unknown_or_end) == 1


def test_the_bundled_checkpoint_loads_from_its_folder() -> None:
    model, processor = architecture.load_checkpoint(files.CHECKPOINT)
    assert sum(weights.numel() for weights in model.parameters()) < 2_000_000
    assert isinstance(processor, Sam3Processor)
    inputs = processor(images=np.zeros((40, 90, 3), np.uint8), text="red circle", return_tensors="pt")
    with torch.inference_mode():
        assert model(**inputs).pred_masks.shape == (1, 36, architecture.MASK_SIZE, architecture.MASK_SIZE)
