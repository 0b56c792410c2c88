"""Grounding DINO with SAM2, tiny and random, against the plain loops over the library's two models."""

import shutil
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
    Sam2Model,
    Sam2Processor,
)

from workers.inference import selftest
from workers.inference.answers import Found
from workers.inference.items import Item, Segmented
from workers.inference.models import grounded_sam2, sam2
from workers.inference.models.grounded_sam2 import GroundedSam2Segmenter
from workers.inference.protocol import Options, OutOfMemory
from workers.inference.reading.images import RGB, ReadRules
from workers.inference.segmenters import ModelUnusable, Precision, family_of
from workers.inference.shapes import masks
from workers.inference.stream.pipeline import Pace, segment
from workers.tiny.pair import write_random_pair

OPTIONS = Options(threshold=0.5, score_floor=0.3)
EVERYTHING = Options(threshold=0.0, score_floor=0.0)
PROMPTS = ("person", "A Red Circle")


@pytest.fixture(scope="module")
def segmenter(pair: tuple[Path, Path]) -> Any:
    return family_of(*pair)(*pair, model_name="pair", revision=None, device="cpu", dtype="auto")


@pytest.fixture(scope="module")
def pictures(photographs: dict[str, RGB]) -> list[RGB]:
    """Five photographs of four sizes; two have one size, and two sizes are nearly one."""
    return [*photographs.values(), np.ascontiguousarray(photographs["coffee"][:, ::-1])]


class Library:
    """The loop that people write: one image and one prompt at a time, then its boxes."""

    def __init__(self, pair: tuple[Path, Path], kind: Any = GroundingDinoForObjectDetection) -> None:
        detector, segmenter = pair
        self.detector: Any = kind.from_pretrained(detector)
        self.words: Any = GroundingDinoProcessor.from_pretrained(detector)
        self.segmenter: Any = Sam2Model.from_pretrained(segmenter)
        self.boxes: Any = Sam2Processor.from_pretrained(segmenter)

    @torch.no_grad()
    def __call__(self, pixels: RGB, prompt: str, threshold: float = OPTIONS.floor) -> dict[str, torch.Tensor]:
        image, size = Image.fromarray(pixels), pixels.shape[:2]
        inputs = self.words(images=image, text=[[prompt]], return_tensors="pt")
        (found,) = self.words.post_process_grounded_object_detection(
            self.detector(**inputs), threshold=threshold, target_sizes=[size]
        )
        order = found["scores"].argsort(descending=True, stable=True)
        scores, boxes = found["scores"][order], found["boxes"][order]
        if not len(scores):
            return {"scores": scores, "boxes": boxes, "masks": torch.empty(0, *size)}
        given = self.boxes(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
        output = self.segmenter(**given, multimask_output=False)
        (logits,) = self.boxes.post_process_masks(output.pred_masks, given["original_sizes"], binarize=False)
        return {"scores": scores, "boxes": boxes, "masks": logits[:, 0]}


@pytest.fixture(scope="module")
def library(pair: tuple[Path, Path]) -> Library:
    return Library(pair)


def ours(
    segmenter: Any, pictures: Sequence[RGB], prompts: Sequence[tuple[str, ...]], options: Options = OPTIONS
) -> list[tuple[Found, ...]]:
    """What one batch gives."""
    batch = [segmenter.preprocess(pixels) for pixels in pictures]
    answers: list[tuple[Found, ...]] = segmenter.postprocess(
        segmenter.predict(batch, prompts, options), range(len(batch)), options
    )
    return answers


def assert_equal_to_library(found: Found, theirs: dict[str, torch.Tensor]) -> int:
    """Compare every instance; returns how many there are."""
    assert len(found.instances) == len(theirs["scores"])
    height, width = theirs["masks"].shape[1:]
    scale = np.array([width, height, width, height])
    for one, score, box, logits in zip(
        found.instances, theirs["scores"].tolist(), theirs["boxes"].numpy(), theirs["masks"].numpy(), strict=True
    ):
        assert one.score == pytest.approx(score, abs=1e-5)
        assert np.abs((np.array(one.box) - box) / scale).max() <= 1e-5
        mask = masks.decode(one.rle, height, width)
        differ = mask != (logits > 0)
        assert np.abs(logits[differ]).max(initial=0) < 1e-4, "only pixels on the cut itself may differ"
        assert masks.iou(one.rle, masks.encode(logits > 0), height, width) >= 0.999
        assert one.area == mask.sum()
    return len(found.instances)


@contextmanager
def counted(segmenter: GroundedSam2Segmenter) -> Iterator[Counter[str]]:
    """Count the images and rows that each part of both models is given."""
    calls: Counter[str] = Counter()
    detector, sam = segmenter._detector, segmenter._masks
    parts = {
        "seen by the detector": detector._seen.encoder,
        "phrases in images": detector._model,
        "seen by sam2": sam._model.vision_encoder,
        "boxes": sam._model.mask_decoder,
    }

    def note(name: str, args: Any, kwargs: Any) -> None:
        calls[name] += len(next(iter([*args, *kwargs.values()])))

    hooks = [
        part.register_forward_pre_hook(lambda _, args, kwargs, name=name: note(name, args, kwargs), with_kwargs=True)
        for name, part in parts.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def test_a_batch_of_several_sizes_and_prompts_gives_what_the_librarys_loop_gives(
    segmenter: Any, library: Library, pictures: list[RGB]
) -> None:
    prompts = [PROMPTS, ("cat",), PROMPTS[::-1], ("person",), ("cat", *PROMPTS)]
    answers = ours(segmenter, pictures, prompts)
    counts = []
    for pixels, asked, of_image in zip(pictures, prompts, answers, strict=True):
        for prompt, found in zip(asked, of_image, strict=True):
            counts.append(assert_equal_to_library(found, library(pixels, prompt)))
    assert len(counts) == sum(map(len, prompts))
    assert 3 <= min(counts) < segmenter._detector.queries, "a loop that finds nothing, or keeps all, shows little"


def test_through_the_pipeline_images_of_files_keep_their_sizes(
    segmenter: Any, library: Library, photograph_files: list[str], photographs: dict[str, RGB]
) -> None:
    items = [Item(number, path, ("person",)) for number, path in enumerate(photograph_files)]
    outcomes = [one for batch in segment(items, segmenter, ReadRules(), OPTIONS, Pace(3, threads=2)) for one in batch]
    for outcome, pixels in zip(outcomes, photographs.values(), strict=True):
        assert isinstance(outcome, Segmented)
        assert (outcome.height, outcome.width) == pixels.shape[:2]
        theirs = library(pixels, "person")
        with_pixels = [bool((mask > 0).any()) for mask in theirs["masks"]]
        assert len(outcome.found[0].instances) == sum(with_pixels)


def test_each_image_is_seen_once_by_each_model_and_images_without_boxes_not_by_sam2(
    segmenter: Any, pictures: list[RGB]
) -> None:
    with counted(segmenter) as calls:
        answers = ours(segmenter, pictures[:3], [PROMPTS] * 3)
    boxes = sum(len(found.instances) for of_image in answers for found in of_image)
    assert calls == {"seen by the detector": 3, "phrases in images": 6, "seen by sam2": 3, "boxes": boxes}
    with counted(segmenter) as calls:
        ours(segmenter, pictures[:3], [PROMPTS] * 3, Options(threshold=1.0, score_floor=1.0))
    assert calls == {"seen by the detector": 3, "phrases in images": 6}


def test_many_boxes_are_decoded_a_few_at_a_time(
    segmenter: Any, pictures: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = ours(segmenter, pictures[:1], [PROMPTS])
    monkeypatch.setattr(sam2, "TOGETHER", 2)
    apart = ours(segmenter, pictures[:1], [PROMPTS])
    for one, other in zip(together[0], apart[0], strict=True):
        assert [found.score for found in one.instances] == [found.score for found in other.instances]
        assert all(
            masks.iou(left.rle, right.rle, *pictures[0].shape[:2]) >= 0.999
            for left, right in zip(one.instances, other.instances, strict=True)
        )


def test_images_asked_for_one_by_one_give_what_they_give_together(segmenter: Any, pictures: list[RGB]) -> None:
    batch = [segmenter.preprocess(pixels) for pixels in pictures[:2]]
    raw = segmenter.predict(batch, [PROMPTS] * 2, OPTIONS)
    apart = [found for row in range(2) for found in segmenter.postprocess(raw, range(row, row + 1), OPTIONS)]
    assert apart == segmenter.postprocess(raw, range(2), OPTIONS)
    assert not any(kept.masks for kept in raw.kept.values())


def test_the_presence_is_the_best_score_also_where_nothing_is_found(segmenter: Any, pictures: list[RGB]) -> None:
    nothing = Options(threshold=1.0, score_floor=1.0)
    (empty,), *_ = ours(segmenter, pictures[:1], [("person",)], nothing)
    (found,), *_ = ours(segmenter, pictures[:1], [("person",)])
    assert not empty.instances
    assert empty.presence == found.presence == found.instances[0].score


def test_a_result_that_took_nearly_all_boxes_is_capped(segmenter: Any, pictures: list[RGB]) -> None:
    (few,), *_ = ours(segmenter, pictures[:1], [("person",)])
    (all_boxes,), *_ = ours(segmenter, pictures[:1], [("person",)], EVERYTHING)
    assert (few.capped, all_boxes.capped) == (False, True)
    assert len(all_boxes.instances) == segmenter._detector.queries


def test_of_more_boxes_than_a_prompt_may_have_the_best_are_kept(
    segmenter: Any, pictures: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    (all_boxes,), *_ = ours(segmenter, pictures[:1], [("person",)], EVERYTHING)
    monkeypatch.setattr(grounded_sam2, "MOST", 5)
    (found,), *_ = ours(segmenter, pictures[:1], [("person",)], EVERYTHING)
    assert [one.score for one in found.instances] == [one.score for one in all_boxes.instances[:5]]
    assert found.capped


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "is empty"), (" . ", "is empty"), ("st. bernard", "holds '.'"), ("what?", "holds '?'"),
        ("person " * 70, "has 73 tokens, the model takes 64"), ("A person.", None), ("café", None),
    ],
)  # fmt: skip
def test_prompts_that_are_no_single_phrase_are_named(segmenter: Any, prompt: str, said: str | None) -> None:
    wrong = segmenter.check_prompts([prompt]).get(prompt)
    assert wrong is None if said is None else said in wrong


def test_a_prompts_case_and_its_last_dot_do_not_matter(segmenter: Any, pictures: list[RGB]) -> None:
    (of_image,) = ours(segmenter, pictures[:1], [("a red circle", "A Red Circle.")])
    assert of_image[0] == of_image[1]


@pytest.mark.parametrize(("dtype", "off"), [("mixed", 0.2), ("bf16", 0.3)])
def test_lower_precisions_find_something_near(
    pair: tuple[Path, Path], segmenter: Any, pictures: list[RGB], dtype: Precision, off: float
) -> None:
    lower = GroundedSam2Segmenter(*pair, model_name="pair", dtype=dtype)
    assert lower.facts.dtype == dtype
    for (one,), (other,) in zip(
        ours(segmenter, pictures, [("person",)] * 5), ours(lower, pictures, [("person",)] * 5), strict=True
    ):
        assert one.presence == pytest.approx(other.presence, abs=off)
        assert other.instances


def test_the_self_test_passes_and_fails_for_features_that_are_noise(pair: tuple[Path, Path]) -> None:
    made = GroundedSam2Segmenter(*pair, model_name="pair")
    selftest.check(made, 4)
    made._detector._seen.encoder.register_forward_hook(
        lambda part, given, answer: ([(torch.randn_like(level), mask) for level, mask in answer[0]], answer[1])
    )
    with pytest.raises(selftest.SelfTestFailed, match="one image got two answers"):
        selftest.check(made, 4)


@pytest.mark.parametrize("part", ["detector", "sam2"])
def test_running_out_of_memory_in_either_model_lets_go_of_everything_before_it_is_said(
    pair: tuple[Path, Path], pictures: list[RGB], part: str
) -> None:
    made = GroundedSam2Segmenter(*pair, model_name="pair")
    held: list[weakref.ref[torch.Tensor]] = []

    def full(_: Any, args: Any, kwargs: Any) -> None:
        held.append(weakref.ref(next(one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor))))
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = made._detector._model.model.encoder if part == "detector" else made._masks._model.vision_encoder
    hook = model.register_forward_pre_hook(full, with_kwargs=True)
    batch = [made.preprocess(pixels) for pixels in pictures]
    with pytest.raises(OutOfMemory):
        made.predict(batch, [PROMPTS] * len(batch), OPTIONS)
    assert held[0]() is None
    assert made._detector._seen._answer is None
    hook.remove()
    assert made.predict(batch[:1], [PROMPTS], OPTIONS).kept


def test_a_batch_that_does_not_fit_is_halved(
    pair: tuple[Path, Path], photograph_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = GroundedSam2Segmenter(*pair, model_name="pair")
    seen: list[int] = []

    def cramped(_: Any, args: Any, kwargs: Any) -> None:
        seen.append(len(kwargs.get("pixel_values", args[0] if args else ())))
        if seen[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    made._masks._model.vision_encoder.register_forward_pre_hook(cramped, with_kwargs=True)
    items = [Item(number, path, ("person",)) for number, path in enumerate(photograph_files)]
    outcomes = [one for batch in segment(items, made, ReadRules(), OPTIONS, Pace(4, threads=2)) for one in batch]
    assert all(isinstance(outcome, Segmented) for outcome in outcomes)
    assert seen[0] == 4
    assert set(seen[1:]) == {2}


def test_masks_are_cut_as_logits_whichever_rule_is_asked_for(segmenter: Any, pictures: list[RGB]) -> None:
    given = [segmenter.preprocess(pictures[0])]
    answers = [
        segmenter.postprocess(segmenter.predict(given, [PROMPTS], OPTIONS), range(1), replace(OPTIONS, **rule))
        for rule in ({"mask_rule": "library"}, {"mask_rule": "meta"}, {"mask_threshold": 0.9})
    ]
    assert answers[0] == answers[1]
    assert sum(one.area for found in answers[2][0] for one in found.instances) < sum(
        one.area for found in answers[0][0] for one in found.instances
    )


def test_loading_the_images_part_of_a_video_model_warns_of_nothing(
    pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    GroundedSam2Segmenter(*pair, model_name="pair")
    assert not caplog.messages


def test_mm_grounding_dino_gives_what_the_librarys_loop_gives_too(tmp_path: Path, pictures: list[RGB]) -> None:
    detector, masks = map(Path, write_random_pair(tmp_path, kind="mm-grounding-dino").split("+"))
    made: Any = family_of(detector, masks)(
        detector, masks, model_name="pair", revision=None, device="cpu", dtype="fp32"
    )
    answers = ours(made, pictures[:2], [PROMPTS, ("person",)])
    library = Library((detector, masks), MMGroundingDinoForObjectDetection)
    assert assert_equal_to_library(answers[0][1], library(pictures[0], PROMPTS[1])) >= 3
    assert assert_equal_to_library(answers[1][0], library(pictures[1], "person")) >= 3


def test_an_incomplete_pair_is_refused_in_one_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    damaged = shutil.copytree(pair[0], tmp_path / "damaged")
    (damaged / "tokenizer.json").unlink()
    with pytest.raises(ModelUnusable, match="no tokenizer there") as refused:
        GroundedSam2Segmenter(damaged, pair[1], model_name="pair")
    assert "\n" not in str(refused.value)
