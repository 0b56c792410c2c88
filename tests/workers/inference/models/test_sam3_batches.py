"""How SAM3 answers batches of images with one or several prompts, and how often its parts run for that."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.workers.inference.models.sam3_answers import (
    OPTIONS,
    Library,
    assert_equal_to_library,
    counted,
    last,
    ours,
    same,
)
from workers.inference.items import Item
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.reading.images import RGB, ReadRules
from workers.inference.stream.pipeline import Pace, segment


def test_several_prompts_and_rows_with_different_prompts_equal_single_runs(
    segmenter: Sam3Segmenter, library: Library, pictures: list[RGB]
) -> None:
    prompts = [("person",), ("cat", "person"), ("a red circle",), ("person", "a red circle", "cat"), ("cat",)]
    batch = ours(segmenter, pictures[:5], prompts)
    for pixels, asked, answers in zip(pictures, prompts, batch, strict=False):
        assert len(answers) == len(asked)
        for prompt, found in zip(asked, answers, strict=True):
            (alone,), *_ = ours(segmenter, [pixels], [(prompt,)])
            assert same(found, alone)
            assert assert_equal_to_library(found, library(pixels, prompt)) >= 3


def test_sixteen_images_at_batch_size_eight_are_two_forward_calls(
    segmenter: Sam3Segmenter, picture_files: list[str]
) -> None:
    items = [Item(number, path, ("a dog",)) for number, path in enumerate(picture_files * 2)]
    with counted(segmenter) as calls:
        batches = list(segment(items, segmenter, ReadRules(), OPTIONS, Pace(batch_size=8)))
    assert [len(batch) for batch in batches] == [8, 8]
    assert calls == {"heads": 2, "vision": 2, "text": 1}


def test_three_prompts_share_the_vision_features(segmenter: Sam3Segmenter, pictures: list[RGB]) -> None:
    prompts = ("first prompt", "second prompt", "third prompt")
    with counted(segmenter) as calls:
        ours(segmenter, pictures[:4], [prompts] * 4)
        ours(segmenter, pictures[4:], [prompts] * 4)
    assert calls == {"vision": 2, "heads": 6, "text": 1}


def test_new_prompts_are_encoded_before_the_images_so_that_nothing_comes_between_them_and_the_heads(
    checkpoint: Path, pictures: list[RGB]
) -> None:
    fresh = Sam3Segmenter(checkpoint, model_name="tiny")
    order: list[str] = []
    for name, part in (("text", fresh._model.text_encoder), ("vision", fresh._model.vision_encoder)):
        part.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    ours(fresh, pictures[:2], [("cat", "person"), ("a red circle",)])
    assert order == ["text", "vision"]


def test_rows_with_one_prompt_each_need_one_run_however_they_differ(
    segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    with counted(segmenter) as calls:
        ours(segmenter, pictures[:3], [("cat",), ("person",), ("a red circle",)])
    assert calls["vision"] == calls["heads"] == 1


def test_empty_prompts_and_prompts_over_the_token_limit_are_named(segmenter: Sam3Segmenter) -> None:
    long = "person " * 31
    bad = segmenter.check_prompts(["person", "", "  ", long, "person " * 30])
    assert set(bad) == {"", "  ", long}
    assert "33 tokens" in bad[long]
    assert "takes 32" in bad[long]


@pytest.mark.parametrize("prompt", ["cat", "a red circle"])
def test_a_prompt_without_its_padding_gives_what_the_library_gives_with_it(
    segmenter: Sam3Segmenter, library: Library, pictures: list[RGB], prompt: str
) -> None:
    raw = segmenter.predict([segmenter.preprocess(pictures[0])], [(prompt,)], OPTIONS)
    with torch.no_grad():
        inputs = library.processor(images=Image.fromarray(pictures[0]), text=prompt, return_tensors="pt")
        assert inputs.attention_mask.sum() < inputs.attention_mask.numel()
        output = library.model(**inputs)
    presence = output.presence_logits.sigmoid()
    scores = output.pred_logits.sigmoid() * presence
    expected = torch.cat((presence, scores, output.pred_boxes.flatten(1)), dim=1)
    assert (last(raw).numbers - expected).abs().max() <= 1e-5
    assert (last(raw).masks.sigmoid() - output.pred_masks.sigmoid()).abs().max() <= 1e-5


def test_prompts_of_one_length_need_no_mask_and_are_asked_together(
    segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    prompts = [("person", "a red circle"), ("a red circle", "person")]
    batch = [segmenter.preprocess(pixels) for pixels in pictures[:2]]
    segmenter.predict(batch, prompts, OPTIONS)
    asked = [[prompts[image][number] for image, number in rows] for rows in segmenter._runs(batch, prompts, 2)]
    assert asked == [["person", "person"], ["a red circle", "a red circle"]]
    assert [segmenter._text_of(together, padded=False)[1] for together in asked] == [None, None]
    assert segmenter._text_of(["person", "a red circle"], padded=False)[1] is not None
