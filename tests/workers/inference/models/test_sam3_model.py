"""The real `Sam3Model` code, with a tiny random checkpoint, against the plain library loop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.workers.inference.models.sam3_answers import OPTIONS, Library, assert_equal_to_library, ours
from workers.inference import selftest
from workers.inference.items import Item, Segmented
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.inference.reading.images import RGB, ReadRules
from workers.inference.shapes import masks
from workers.inference.stream.pipeline import Pace, segment


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.long), 3, 8])
def test_real_photographs_give_what_the_library_gives(
    segmenter: Sam3Segmenter, library: Library, pictures: list[RGB], picture_files: list[str], batch_size: int
) -> None:
    items = [Item(number, path, ("person",)) for number, path in enumerate(picture_files)]
    batches = segment(items, segmenter, ReadRules(), OPTIONS, Pace(batch_size=batch_size, threads=2))
    outcomes = [outcome for batch in batches for outcome in batch]
    for outcome, pixels in zip(outcomes, pictures, strict=True):
        assert isinstance(outcome, Segmented)
        assert (outcome.height, outcome.width) == pixels.shape[:2]
        assert assert_equal_to_library(outcome.found[0], library(pixels, "person")) >= 3


def test_instances_down_to_the_score_floor_are_the_librarys_at_that_threshold(
    segmenter: Sam3Segmenter, library: Library, pictures: list[RGB]
) -> None:
    (found,), *_ = ours(segmenter, pictures[:1], [("person",)])
    at_threshold = sum(one.score > OPTIONS.threshold for one in found.instances)
    assert assert_equal_to_library(found, library(pictures[0], "person", 0.3), 0.3) > at_threshold


def test_a_threshold_below_the_floor_lowers_it(segmenter: Sam3Segmenter, pictures: list[RGB]) -> None:
    low = replace(OPTIONS, threshold=0.05)
    (found,), *_ = ours(segmenter, pictures[:1], [("person",)], low)
    assert any(0.05 < one.score < 0.3 for one in found.instances)


def test_where_nothing_is_found_the_result_is_empty_and_its_presence_is_kept(
    segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    nothing = Options(threshold=1.0, score_floor=1.0)
    answers = ours(segmenter, pictures[:2], [("person",)] * 2, nothing)
    assert [[len(found.instances) for found in of_image] for of_image in answers] == [[0], [0]]
    assert all(found.presence > 0 for (found,) in answers)


def test_pixels_arrive_as_the_librarys_processor_makes_them(
    segmenter: Sam3Segmenter, library: Library, pictures: list[RGB]
) -> None:
    batch = [segmenter.preprocess(pixels) for pixels in pictures]
    assert all(pixels.data.dtype == np.uint8 for pixels in batch)
    expected = library.processor(images=[Image.fromarray(pixels) for pixels in pictures], return_tensors="pt")
    assert torch.equal(segmenter._to_device(batch), expected.pixel_values)


def test_the_meta_rule_enlarges_logits_and_differs_at_the_edges_only(
    segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    height, width = pictures[0].shape[:2]
    (library_rule,), *_ = ours(segmenter, pictures[:1], [("person",)])
    (meta_rule,), *_ = ours(segmenter, pictures[:1], [("person",)], replace(OPTIONS, mask_rule="meta"))
    pairs = list(zip(library_rule.instances, meta_rule.instances, strict=True))
    assert all(masks.iou(one.rle, other.rle, height, width) > 0.9 for one, other in pairs)
    assert any(one.rle != other.rle for one, other in pairs)


def test_scores_fall_and_every_one_is_above_the_floor(segmenter: Sam3Segmenter, pictures: list[RGB]) -> None:
    for (found,) in ours(segmenter, pictures, [("cat",)] * len(pictures)):
        scores = [one.score for one in found.instances]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > OPTIONS.score_floor


def test_noise_in_the_place_of_vision_features_does_not_pass_the_self_test(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Sam3Segmenter(checkpoint, model_name="tiny")
    selftest.check(broken, 8)
    features = broken._model.get_vision_features

    def noise(pixels: torch.Tensor) -> Any:
        vision = features(pixels)
        vision.fpn_hidden_states = tuple(torch.randn_like(level) for level in vision.fpn_hidden_states)
        return vision

    monkeypatch.setattr(broken._model, "get_vision_features", noise)
    with pytest.raises(selftest.SelfTestFailed, match="one image got two answers"):
        selftest.check(broken, 8)
