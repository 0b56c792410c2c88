"""Weights that are not facebook/sam3's, a fine-tuned folder and SAM3 with a small text encoder: as in the library."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Sam3LiteTextConfig, Sam3LiteTextModel, Sam3Model, Sam3Processor

from workers.inference.boxes import Box
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.inference.reading.images import RGB
from workers.inference.segmenters import family_of
from workers.tiny.architecture import new_processor, random_model

OPTIONS = Options(threshold=0.5, score_floor=0.5)
PROMPTS = ("person", "a red circle")  # of different lengths


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a trainer leaves it: a SAM3 without a tracker, in bf16, in several files."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    model: Any = random_model(seed=3)
    model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="2MB")
    new_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lite_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model whose text encoder is the small one; all else is that of the tiny random SAM3."""
    folder = tmp_path_factory.mktemp("lite-text")
    usual = random_model()
    parts = {
        name: part
        for name, part in usual.config.to_dict().items()
        if name.endswith("_config") and name != "text_config"
    }
    for part in parts.values():
        part.pop("model_type" if part is not parts["vision_config"] else "", None)
    text = {
        "vocab_size": usual.vocab_size, "hidden_size": 64, "intermediate_size": 128,
        "projection_dim": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 16,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sam3LiteTextModel(Sam3LiteTextConfig(**parts, text_config=text))
    weights = {name: value for name, value in usual.state_dict().items() if not name.startswith("text_encoder")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("text_encoder") for name in missing)
    model.save_pretrained(folder)
    new_processor().save_pretrained(folder)
    return folder


def library(
    kind: Any, folder: Path, pixels: RGB, prompt: str, boxes: tuple[Box, ...] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the plain loop gets: presence, scores and boxes in one row, and the probabilities of masks."""
    model = kind.from_pretrained(folder, dtype=torch.float32)
    given: dict[str, Any] = {"input_boxes": [[list(box[:4]) for box in boxes]]} if boxes else {}
    processor = Sam3Processor.from_pretrained(folder)
    inputs = processor(images=Image.fromarray(pixels), text=prompt, **given, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    presence = output.presence_logits.sigmoid()
    scores = output.pred_logits.sigmoid() * presence
    return torch.cat((presence, scores, output.pred_boxes.flatten(1)), dim=1), output.pred_masks.sigmoid()


@pytest.mark.long
@pytest.mark.parametrize(("checkpoint", "kind"), [("fine_tuned", Sam3Model), ("lite_text", Sam3LiteTextModel)])
def test_other_weights_answer_as_in_the_librarys_loop(
    checkpoint: str, kind: Any, request: pytest.FixtureRequest, photographs: dict[str, RGB]
) -> None:
    folder = request.getfixturevalue(checkpoint)
    segmenter: Any = family_of(folder)(folder, model_name="other", revision=None, device="cpu", dtype="auto")
    pictures = [photographs["coffee"], photographs["chelsea"]]
    raw = segmenter.predict([segmenter.preprocess(one) for one in pictures], [(prompt,) for prompt in PROMPTS], OPTIONS)
    assert sorted(raw.last.rows) == [(0, 0), (1, 0)]
    for (image, _), numbers, masks in zip(raw.last.rows, raw.last.numbers, raw.last.masks, strict=True):
        expected, probabilities = library(kind, folder, pictures[image], PROMPTS[image])
        assert (numbers - expected[0]).abs().max() <= 1e-5
        assert (masks.sigmoid() - probabilities[0]).abs().max() <= 1e-5
    answers = segmenter.postprocess(raw, range(2), OPTIONS)
    assert all(len(found.instances) >= 3 for of_image in answers for found in of_image)


def test_a_small_text_encoder_takes_boxes_too(lite_text: Path, photographs: dict[str, RGB]) -> None:
    segmenter = Sam3Segmenter(lite_text, model_name="lite")
    boxes = (Box(20, 30, 300, 250.5, True), Box(100, 10, 200, 90, True))
    batch = [replace(segmenter.preprocess(photographs["coffee"]), boxes=boxes)]
    raw = segmenter.predict(batch, [PROMPTS[:1]], OPTIONS)
    assert raw.last is not None
    expected, probabilities = library(Sam3LiteTextModel, lite_text, photographs["coffee"], PROMPTS[0], boxes)
    assert (raw.last.numbers - expected).abs().max() <= 1e-5
    assert (raw.last.masks.sigmoid() - probabilities).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", ["mixed", "bf16"])
def test_a_small_text_encoder_works_in_lower_precisions_too(
    lite_text: Path, photographs: dict[str, RGB], dtype: Any
) -> None:
    segmenter = Sam3Segmenter(lite_text, model_name="lite", dtype=dtype)
    batch = [segmenter.preprocess(photographs["coffee"])]
    ((found,),) = segmenter.postprocess(segmenter.predict(batch, [PROMPTS[:1]], OPTIONS), range(1), OPTIONS)
    assert found.instances
    assert np.isfinite(found.presence)


def test_a_prompt_longer_than_the_positions_of_a_small_text_encoder_is_taken_up_to_32_tokens(lite_text: Path) -> None:
    """The library stretches the positions to the 32 tokens that it pads every prompt to."""
    segmenter = Sam3Segmenter(lite_text, model_name="lite")
    assert set(segmenter.check_prompts(["person " * 20, "person " * 40])) == {"person " * 40}
