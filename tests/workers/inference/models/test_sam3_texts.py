"""The text features of prompts: the library's, made once and together."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from workers.inference.models import sam3_texts
from workers.inference.models.sam3_texts import Texts
from workers.tiny.architecture import TEXT_LENGTH, new_processor, random_model

PROMPTS = ["person", "a red circle", "cat", "a cup of coffee"]


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model()


@pytest.fixture
def texts(model: Any) -> Iterator[Texts]:
    with torch.inference_mode():
        yield Texts(model, new_processor().tokenizer)


@pytest.fixture
def runs(model: Any) -> Iterator[list[int]]:
    """How many prompts each run of the text encoder had."""
    sizes: list[int] = []
    hook = model.text_encoder.register_forward_pre_hook(
        lambda part, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    yield sizes
    hook.remove()


def of_the_library(model: Any, prompt: str) -> torch.Tensor:
    asked = new_processor().tokenizer([prompt], padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
    features: torch.Tensor = model.get_text_features(**asked).pooler_output[0]
    return features[: int(asked.attention_mask.sum())]


def test_prompts_that_are_encoded_together_get_the_librarys_features(model: Any, texts: Texts) -> None:
    texts.learn(PROMPTS)
    for prompt in PROMPTS:
        assert texts[prompt].shape == of_the_library(model, prompt).shape
        assert (texts[prompt] - of_the_library(model, prompt)).abs().max() <= 1e-6


def test_an_encoder_that_we_do_not_know_gets_the_mask_of_padding_and_answers_the_same(
    model: Any, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts.learn(PROMPTS[:1])
    ours = texts[PROMPTS[0]]
    monkeypatch.setattr(sam3_texts, "CAUSAL", {})
    another = Texts(model, new_processor().tokenizer)
    another.learn(PROMPTS[:1])
    assert torch.equal(another[PROMPTS[0]], ours)


def test_each_prompt_is_encoded_once_and_new_ones_together(texts: Texts, runs: list[int]) -> None:
    texts.learn(["person", "cat", "person"])
    texts.learn(["cat", "dog", "tree", "car", "person"])
    texts.learn(["tree"])
    assert runs == [2, 3]


def test_many_new_prompts_are_encoded_in_parts(texts: Texts, runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam3_texts, "TOGETHER", 3)
    texts.learn(f"number {number}" for number in range(7))
    assert runs == [3, 3, 1]


def test_the_prompts_that_were_asked_for_last_are_kept_and_those_of_one_call_all(
    texts: Texts, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam3_texts, "CACHED", 2)
    texts.learn(PROMPTS)
    assert all(len(texts[prompt]) for prompt in PROMPTS)
    texts.learn(["person"])
    texts.learn(["a cup of coffee", "person"])
    assert runs == [4]
    texts.learn(["cat"])
    assert runs == [4, 1]
    with pytest.raises(KeyError):
        texts["a cup of coffee"]
