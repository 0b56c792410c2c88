"""Everything in an image, by a tiny random tracker, against the library's own mask generation."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Sam2Model, Sam2Processor, Sam3TrackerModel, Sam3TrackerProcessor, pipeline

from workers.inference import selftest
from workers.inference.answers import Found
from workers.inference.everything import EVERYTHING
from workers.inference.items import Item, Segmented
from workers.inference.models import mask_generation
from workers.inference.models.mask_generation import EverythingSegmenter, grid
from workers.inference.protocol import Options, OutOfMemory
from workers.inference.reading.images import RGB, ReadRules
from workers.inference.segmenters import ModelUnusable, Precision, family_of
from workers.inference.shapes import masks
from workers.inference.stream.pipeline import Pace, segment

SIDE = 12  # points
ASKED = (EVERYTHING,)
THRESHOLD = 0.7  # the random model is not as sure as a real one
OPTIONS = Options(threshold=THRESHOLD, score_floor=THRESHOLD, points_per_side=SIDE)


@pytest.fixture(scope="module")
def segmenter(tracker: Path) -> Any:
    make = family_of(tracker, everything=True)
    return make(tracker, model_name="tiny", revision=None, device="cpu", dtype="auto")


@pytest.fixture(scope="module")
def pictures(photographs: dict[str, RGB]) -> list[RGB]:
    """Photographs of several sizes, the first one square, and the last one upright."""
    small = [np.ascontiguousarray(pixels[::3, ::2]) for pixels in list(photographs.values())[1:]]
    square = np.ascontiguousarray(photographs["astronaut"][::2, ::2])
    return [square, *small, np.ascontiguousarray(small[0].swapaxes(0, 1))]


class Library:
    """The library's mask generation step by step, with points all over the image."""

    def __init__(self, folder: Path, model: Any = Sam3TrackerModel, processor: Any = Sam3TrackerProcessor) -> None:
        self.model: Any = model.from_pretrained(folder)
        self.processor: Any = processor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, pixels: RGB, score: float = THRESHOLD, stability: float = 0.95) -> list[tuple[Any, float, Any]]:
        """Mask, score and box of each instance, highest score first."""
        images, (height, width) = self.processor.image_processor, pixels.shape[:2]
        points = (grid(SIDE) * torch.tensor([width, height]))[:, None].tolist()
        given = self.processor(images=Image.fromarray(pixels), input_points=[points], return_tensors="pt")
        seen = self.model.get_image_embeddings(given["pixel_values"])
        found: list[list[Any]] = [[], [], []]
        for some in given["input_points"].split(64, dim=1):
            output = self.model(image_embeddings=list(seen), input_points=some)
            (large,) = images.post_process_masks(output.pred_masks, [(height, width)], binarize=False)
            kept = images.filter_masks(
                large, output.iou_scores[0], (height, width), torch.tensor([0, 0, width, height]), score, stability
            )
            for all_of, of_some in zip(found, kept, strict=True):
                all_of.append(of_some)
        rle, scores, boxes = [one for part in found[0] for one in part], torch.cat(found[1]), torch.cat(found[2])
        if not rle:
            return []
        made, scores, _, boxes = images.post_process_for_mask_generation(rle, scores, boxes, 0.7)
        return list(zip(made, scores.tolist(), boxes.tolist(), strict=True))


@pytest.fixture(scope="module")
def library(tracker: Path) -> Library:
    return Library(tracker)


def ours(segmenter: Any, pictures: Sequence[RGB], options: Options = OPTIONS) -> list[Found]:
    """What one batch gives."""
    batch = [segmenter.preprocess(pixels) for pixels in pictures]
    raw = segmenter.predict(batch, [ASKED] * len(batch), options)
    return [found for (found,) in segmenter.postprocess(raw, range(len(batch)), options)]


def assert_equal(found: Found, theirs: Sequence[tuple[Any, float, Any]], size: tuple[int, ...]) -> int:
    """Compare every instance; returns how many there are."""
    assert len(found.instances) == len(theirs)
    for one, (mask, score, (x1, y1, x2, y2)) in zip(found.instances, theirs, strict=True):
        assert one.score == pytest.approx(score, abs=1e-5)
        mine = masks.decode(one.rle, size[0], size[1])
        assert (mine != np.asarray(mask)).sum() <= 1, "only a pixel on the cut itself may differ"
        assert np.abs(np.array(one.box) - (x1, y1, x2 + 1, y2 + 1)).max() <= 1
        assert one.area == mine.sum()
    return len(found.instances)


def test_a_batch_of_several_sizes_gives_what_the_librarys_loop_gives(
    segmenter: Any, library: Library, pictures: list[RGB]
) -> None:
    counts = [
        assert_equal(found, library(pixels), pixels.shape)
        for found, pixels in zip(ours(segmenter, pictures), pictures, strict=True)
    ]
    assert min(counts) >= 3, "a model that finds nothing shows little"


@pytest.mark.parametrize(("threshold", "mask_threshold"), [(THRESHOLD, 0.5), (0.3, 0.9)])
def test_a_square_image_gives_what_the_librarys_pipeline_gives(
    segmenter: Any, library: Library, pictures: list[RGB], threshold: float, mask_threshold: float
) -> None:
    generate: Any = pipeline("mask-generation", model=library.model, image_processor=library.processor.image_processor)
    cut = float(np.log(mask_threshold / (1 - mask_threshold)))
    theirs = generate(
        Image.fromarray(pictures[0]),
        points_per_crop=SIDE, pred_iou_thresh=threshold, mask_threshold=cut, output_bboxes_mask=True,
    )  # fmt: skip
    expected = list(zip(theirs["masks"], theirs["scores"].tolist(), theirs["bounding_boxes"].tolist(), strict=True))
    options = Options(threshold=threshold, score_floor=threshold, mask_threshold=mask_threshold, points_per_side=SIDE)
    (found,) = ours(segmenter, pictures[:1], options)
    assert assert_equal(found, expected, pictures[0].shape)


def test_points_lie_on_the_whole_image_and_those_of_the_library_on_a_part_of_a_wide_one(library: Library) -> None:
    side = library.processor.target_size
    wide = np.zeros((60, 120, 3), np.uint8)
    _, theirs, _, _ = library.processor.image_processor.generate_crop_boxes(wide, side, points_per_crop=SIDE)
    furthest = theirs[0, :, 0].amax(0) / side
    assert furthest.tolist() == pytest.approx([1 - 0.5 / SIDE, (1 - 0.5 / SIDE) / 2], abs=1e-5)
    assert grid(SIDE).amax(0).tolist() == pytest.approx([1 - 0.5 / SIDE] * 2)
    assert grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_a_batch_is_seen_once_and_its_points_are_decoded_many_at_a_time(segmenter: Any, pictures: list[RGB]) -> None:
    calls: Counter[str] = Counter()
    runs: list[int] = []
    hooks = [
        segmenter._model.vision_encoder.register_forward_pre_hook(
            lambda _, args: calls.update(images=len(args[0]), runs=1)
        ),
        segmenter._model.mask_decoder.register_forward_pre_hook(
            lambda _, args, kwargs: runs.append(len(kwargs["image_embeddings"])), with_kwargs=True
        ),
    ]
    ours(segmenter, pictures[:3])
    for hook in hooks:
        hook.remove()
    assert calls == {"images": 3, "runs": 1}
    assert runs == [64] * 6 + [48]


def test_fewer_points_at_once_and_images_one_by_one_give_the_same(
    segmenter: Any, pictures: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = ours(segmenter, pictures[:2])
    monkeypatch.setattr(segmenter, "_together", 50)
    monkeypatch.setattr(mask_generation, "ON_HOST", 3)
    apart = [ours(segmenter, [pixels])[0] for pixels in pictures[:2]]
    for one, other in zip(together, apart, strict=True):
        assert [found.area for found in one.instances] == pytest.approx([found.area for found in other.instances])
        assert [found.score for found in one.instances] == pytest.approx(
            [found.score for found in other.instances], abs=1e-5
        )


def test_a_lower_floor_adds_instances_and_changes_none(segmenter: Any, pictures: list[RGB]) -> None:
    lower = Options(threshold=THRESHOLD, score_floor=0.3, points_per_side=SIDE)
    added = 0
    for found, more in zip(ours(segmenter, pictures), ours(segmenter, pictures, lower), strict=True):
        added += len(more.instances) - len(found.instances)
        assert tuple(one for one in more.instances if one.score > THRESHOLD) == found.instances
        assert more.presence == found.presence >= max((one.score for one in more.instances), default=0.0)
    assert added


def test_of_more_instances_than_an_image_may_have_the_best_are_kept(
    segmenter: Any, pictures: list[RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(threshold=0.3, score_floor=0.3, points_per_side=SIDE)
    (whole,) = ours(segmenter, pictures[1:2], options)
    assert len(whole.instances) > 1
    assert not whole.capped
    monkeypatch.setattr(mask_generation, "MOST", 1)
    (found,) = ours(segmenter, pictures[1:2], options)
    assert (found.instances, found.capped) == (whole.instances[:1], True)


def test_where_one_image_does_not_fit_fewer_of_its_points_are_decoded_at_once(
    tracker: Path, pictures: list[RGB], tmp_path: Path
) -> None:
    made = EverythingSegmenter(tracker, model_name="tiny")
    seen: list[int] = []
    room = [20]

    def cramped(_: Any, args: Any, kwargs: Any) -> None:
        seen.append(len(kwargs["image_embeddings"]))
        if seen[-1] > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    made._model.mask_decoder.register_forward_pre_hook(cramped, with_kwargs=True)
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for path, pixels in zip(paths, pictures, strict=False):
        Image.fromarray(pixels).save(path)
    items = [Item(number, str(path), ASKED) for number, path in enumerate(paths)]
    outcomes = [one for batch in segment(items, made, ReadRules(), OPTIONS, Pace(2, threads=2)) for one in batch]
    assert all(isinstance(outcome, Segmented) for outcome in outcomes)
    assert seen[:3] == [64, 64, 32]
    assert set(seen[3:]) == {16}
    room[0] = 0
    with pytest.raises(OutOfMemory):
        made.predict([made.preprocess(pictures[0])], [ASKED], OPTIONS)


def test_only_what_stands_for_no_prompt_may_be_asked(segmenter: Any) -> None:
    assert segmenter.check_prompts([EVERYTHING]) == {}
    assert segmenter.check_prompts(["hat"]) == {"hat": "is asked of a run of everything"}


@pytest.mark.parametrize("dtype", ["mixed", "bf16"])
def test_lower_precisions_find_something_near(
    tracker: Path, segmenter: Any, pictures: list[RGB], dtype: Precision
) -> None:
    lower = EverythingSegmenter(tracker, model_name="tiny", dtype=dtype)
    assert lower.facts.dtype == dtype
    for one, other in zip(ours(segmenter, pictures[:3]), ours(lower, pictures[:3]), strict=True):
        assert one.presence == pytest.approx(other.presence, abs=0.1)


def test_the_self_test_passes_and_fails_for_features_that_are_noise(tracker: Path) -> None:
    made = EverythingSegmenter(tracker, model_name="tiny")
    selftest.check(made, 4)
    made._model.vision_encoder.neck.register_forward_hook(
        lambda part, given, answer: (tuple(map(torch.randn_like, answer[0])), answer[1])
    )
    with pytest.raises(selftest.SelfTestFailed, match="one image got two answers"):
        selftest.check(made, 4)


def test_a_sam2_finds_everything_too(pair: tuple[Path, Path], pictures: list[RGB], monkeypatch: Any) -> None:
    made: Any = family_of(pair[1], everything=True)(
        pair[1], model_name="sam2", revision=None, device="cpu", dtype="auto"
    )
    monkeypatch.setattr(mask_generation, "STABLE", -1.0)  # its masks are not
    library = Library(pair[1], Sam2Model, Sam2Processor)
    options = Options(threshold=0.0, score_floor=0.0, points_per_side=SIDE)
    for found, pixels in zip(ours(made, pictures[:3], options), pictures, strict=False):
        assert assert_equal(found, library(pixels, 0.0, 0.0), pixels.shape)


def test_a_checkpoint_without_a_tracker_is_refused_in_one_line(checkpoint: Path) -> None:
    with pytest.raises(ModelUnusable, match="has no tracker, which --everything needs") as refused:
        EverythingSegmenter(checkpoint, model_name="detector")
    assert "\n" not in str(refused.value)


def test_each_weight_of_the_tracker_is_the_one_of_the_file(tracker: Path, segmenter: Any) -> None:
    stored, parts = load_file(tracker / "model.safetensors"), Counter[str]()
    for name, value in segmenter._model.state_dict().items():
        if name.startswith("vision_encoder.backbone."):
            there = f"detector_model.{name}"
        elif name.startswith("vision_encoder.neck."):
            there = name.replace("vision_encoder.neck.", "tracker_neck.")
        else:
            there = f"tracker_model.{name}"
        parts[there.partition(".")[0]] += 1
        assert torch.equal(stored[there], value), name
    assert parts.keys() == {"detector_model", "tracker_neck", "tracker_model"}


@pytest.mark.parametrize(
    ("kind", "everything", "said"),
    [
        ("sam3", True, "of type sam3; --everything needs a model of type sam2, sam2_video, sam3_tracker, sam3_video"),
        ("sam2_video", False, "of type sam2_video; we have code for .*; with --everything it needs no prompt"),
    ],
)
def test_a_model_for_the_other_kind_of_run_is_refused_in_one_line(
    tmp_path: Path, kind: str, everything: bool, said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelUnusable, match=said):
        family_of(tmp_path, everything=everything)
