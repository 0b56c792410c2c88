"""The real `Sam3Model` code, with a tiny random checkpoint, against the plain library loop."""

import gc
import json
import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data
from transformers import Sam3Model, Sam3Processor

from benchmarks.postprocess import peak_mb
from workers.inference import selftest
from workers.inference.answers import Found
from workers.inference.items import Item, Segmented
from workers.inference.models import sam3_heads, sam3_model
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.models.torch_checkpoint import weights_sha256
from workers.inference.protocol import Options, OutOfMemory
from workers.inference.reading.images import RGB, ReadRules
from workers.inference.segmenters import ModelUnusable, Precision
from workers.inference.shapes import masks
from workers.inference.stream.pipeline import Pace, segment

OPTIONS = Options(threshold=0.5, score_floor=0.3)
SCORE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Sam3Segmenter:
    return Sam3Segmenter(checkpoint, model_name="tiny")


@pytest.fixture(scope="module")
def pictures(photographs: dict[str, RGB]) -> list[RGB]:
    """Eight photographs of eight sizes and shapes, from 100 x 900 to 1411 x 1411 pixels."""
    folder = Path(data.__file__).parent
    more = []
    for name in ("retina.jpg", "hubble_deep_field.jpg", "motorcycle_left.png"):
        with Image.open(folder / name) as image:
            more.append(np.array(image.convert("RGB")))
    more.append(np.array(Image.fromarray(photographs["chelsea"]).resize((100, 900))))
    return [*photographs.values(), *more]


@pytest.fixture(scope="module")
def picture_files(pictures: list[RGB], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [str(folder / f"{number}.png") for number in range(len(pictures))]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@dataclass(frozen=True)
class Library:
    """The plain loop that people write: one image and one prompt at a time."""

    model: Any
    processor: Any

    @torch.no_grad()
    def __call__(self, pixels: RGB, prompt: str, threshold: float = OPTIONS.threshold) -> dict[str, torch.Tensor]:
        inputs = self.processor(images=Image.fromarray(pixels), text=prompt, return_tensors="pt")
        output = self.model(**inputs)
        found: dict[str, torch.Tensor] = self.processor.post_process_instance_segmentation(
            output, threshold=threshold, mask_threshold=OPTIONS.mask_threshold, target_sizes=[pixels.shape[:2]]
        )[0]
        return found


@pytest.fixture(scope="module")
def library(checkpoint: Path) -> Library:
    model = Sam3Model.from_pretrained(checkpoint, dtype=torch.float32)
    return Library(model, Sam3Processor.from_pretrained(checkpoint))


def ours(
    segmenter: Sam3Segmenter, pictures: Sequence[RGB], prompts: Sequence[tuple[str, ...]], options: Options = OPTIONS
) -> list[tuple[Found, ...]]:
    """What one batch gives."""
    batch = [segmenter.preprocess(pixels) for pixels in pictures]
    return segmenter.postprocess(segmenter.predict(batch, prompts, options), range(len(batch)), options)


def assert_equal_to_library(found: Found, theirs: dict[str, torch.Tensor], threshold: float = 0.5) -> int:
    """Compare every instance that is not within the tolerance of the threshold; returns how many there were."""
    mine = [one for one in found.instances if one.score > threshold + SCORE_TOLERANCE]
    sure = (theirs["scores"] > threshold + SCORE_TOLERANCE).nonzero().flatten().tolist()
    assert len(mine) == len(sure)
    height, width = theirs["masks"].shape[1:]
    for index in sure:
        box = theirs["boxes"][index].numpy()
        nearest = min(mine, key=lambda one: float(np.abs(np.array(one.box) - box).max()))
        mine.remove(nearest)
        assert nearest.score == pytest.approx(theirs["scores"][index].item(), abs=SCORE_TOLERANCE)
        assert nearest.box == pytest.approx(box.tolist(), abs=0.05)
        mask = theirs["masks"][index].numpy().astype(bool)
        assert masks.iou(nearest.rle, masks.encode(mask), height, width) >= 0.999
        assert nearest.area == pytest.approx(mask.sum(), rel=0.001)
    return len(sure)


def same(one: Found, other: Found) -> bool:
    """Whether two ways of batching gave the same, but for the last bits of a float."""
    return (
        len(one.instances) == len(other.instances) >= 3
        and one.presence == pytest.approx(other.presence, abs=1e-5)
        and all(
            left.score == pytest.approx(right.score, abs=1e-5)
            and left.box == pytest.approx(right.box, abs=1e-2)
            and left.area == pytest.approx(right.area, rel=1e-3, abs=2)
            for left, right in zip(one.instances, other.instances, strict=True)
        )
    )


def last(raw: sam3_model._Raw) -> sam3_heads.Heads:
    """What the last run of the heads left, before anything of it was asked for."""
    assert raw.last is not None
    return raw.last


@contextmanager
def counted(segmenter: Sam3Segmenter) -> Iterator[Counter[str]]:
    """Count the runs of the whole model and of its two encoders."""
    calls: Counter[str] = Counter()
    model = segmenter._model
    parts = {"heads": model, "vision": model.vision_encoder, "text": model.text_encoder}
    hooks = [part.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, part in parts.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


# Equal to the library


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


# Batches, prompts and how often the model runs


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


# What is kept, and in how much memory


def heads(logits: torch.Tensor, scores: torch.Tensor) -> Any:
    """One row of the heads' output, every box a quarter of the image."""
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75]).repeat(len(scores))
    numbers = torch.cat((torch.tensor([0.9]), scores, boxes))
    return sam3_heads.Heads([(0, 0)], numbers[None], logits[None])


def postprocessed(segmenter: Sam3Segmenter, logits: torch.Tensor, height: int, width: int) -> Found:
    found = heads(logits, torch.linspace(0.9, 0.4, len(logits)))
    raw = sam3_model._Raw([(height, width)], {}, None, last=found)
    ((answer,),) = segmenter.postprocess(raw, range(1), OPTIONS)
    return answer


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be asked for on Linux only")
def test_a_hundred_masks_of_twelve_megapixels_take_less_memory_than_five_of_them(segmenter: Sam3Segmenter) -> None:
    logits = torch.nn.functional.interpolate(torch.randn(1, 100, 8, 8), size=288, mode="bicubic")[0] * 5
    postprocessed(segmenter, logits[:1], 3000, 4000)  # what is compiled once
    found, peak = peak_mb(lambda: postprocessed(segmenter, logits, 3000, 4000))
    assert len(found.instances) == 100
    assert peak < 5 * 3000 * 4000 / 1e6


def test_an_empty_mask_stays_as_in_the_library_with_area_zero(segmenter: Sam3Segmenter) -> None:
    found = postprocessed(segmenter, torch.full((1, 8, 8), -9.0), 20, 30)
    assert [one.area for one in found.instances] == [0]
    assert not masks.decode(found.instances[0].rle, 20, 30).any()


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


def test_rows_asked_for_one_by_one_give_what_they_give_together(segmenter: Sam3Segmenter, pictures: list[RGB]) -> None:
    batch = [segmenter.preprocess(pixels) for pixels in pictures[:3]]
    raw = segmenter.predict(batch, [("person",), ("cat", "person"), ("person", "a red circle", "cat")], OPTIONS)
    together = segmenter.postprocess(raw, range(3), OPTIONS)
    assert [found for row in range(3) for found in segmenter.postprocess(raw, range(row, row + 1), OPTIONS)] == together


def test_of_all_runs_of_the_heads_but_the_last_only_what_is_kept_stays_in_memory(
    segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    raw = segmenter.predict([segmenter.preprocess(pictures[0])], [("person", "cat", "a red circle")], OPTIONS)
    assert len(raw.kept) == 2
    for kept in raw.kept.values():
        (storage,) = {mask.untyped_storage()._cdata: mask.untyped_storage() for mask in kept.masks}.values()
        assert storage.nbytes() == sum(mask.nbytes for mask in kept.masks) < last(raw).masks.nbytes


def test_a_batch_whose_images_all_have_their_masks_holds_nothing_on_the_device(
    segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    raw = segmenter.predict([segmenter.preprocess(pixels) for pixels in pictures[:2]], [("person", "cat")] * 2, OPTIONS)
    everything = weakref.ref(last(raw).masks.untyped_storage())
    first = segmenter.postprocess(raw, range(1), OPTIONS)
    second = segmenter.postprocess(raw, range(1, 2), OPTIONS)
    assert everything() is None
    assert not any(kept.masks for kept in raw.kept.values())
    assert segmenter.postprocess(raw, range(2), OPTIONS) == [*first, *second]
    assert all(found.instances for of_image in (*first, *second) for found in of_image)


@pytest.mark.parametrize(("found", "capped"), [(189, False), (190, True), (200, True)])
def test_a_result_that_took_nearly_all_queries_is_flagged(found: int, capped: bool) -> None:
    scores = torch.tensor([0.9] * found + [0.0] * (200 - found))
    (only,) = sam3_heads.keep(heads(torch.zeros(200, 4, 4), scores), 0.3).values()
    assert len(only.scores) == found
    assert only.capped is capped


# Precision


@pytest.mark.parametrize("dtype", ["mixed", "bf16"])
def test_lower_precisions_run_and_find_nearly_the_same(
    checkpoint: Path, segmenter: Sam3Segmenter, pictures: list[RGB], dtype: Precision
) -> None:
    lower = Sam3Segmenter(checkpoint, model_name="tiny", dtype=dtype)
    assert lower.facts.dtype == dtype
    exact = ours(segmenter, pictures, [("person",)] * 8)
    for (one,), (other,) in zip(exact, ours(lower, pictures, [("person",)] * 8), strict=True):
        assert abs(len(one.instances) - len(other.instances)) <= 2
        assert one.instances[0].score == pytest.approx(other.instances[0].score, abs=0.05)


def test_mixed_keeps_every_box_apart_and_nearer_to_its_place_than_bf16(
    checkpoint: Path, segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    """Boxes in pixels of an image 1920 wide. What is left in mixed is the encoder's rounding, not the boxes' own."""

    def different(boxes: torch.Tensor) -> int:
        return len(set(boxes.flatten().tolist()))

    def boxes(of: Sam3Segmenter) -> torch.Tensor:
        raw = of.predict([of.preprocess(pixels) for pixels in pictures], [("person",)] * len(pictures), OPTIONS)
        return last(raw).numbers[:, 1 + last(raw).masks.shape[1] :] * 1920

    exact = boxes(segmenter)
    mixed, bf16 = (boxes(Sam3Segmenter(checkpoint, model_name="tiny", dtype=dtype)) for dtype in ("mixed", "bf16"))
    assert different(mixed) > 0.99 * different(exact)
    assert different(bf16) < 0.5 * different(exact)
    off, far_off = (mixed - exact).abs(), (bf16 - exact).abs()
    assert off.median() < 0.1 * far_off.median()
    assert off.max() < 0.2 * far_off.max()


# What is loaded, and what is not


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


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_running_out_of_memory_lets_go_of_everything_before_it_is_said(
    segmenter: Sam3Segmenter, photographs: dict[str, RGB], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def features(pixels: torch.Tensor) -> None:
        held.append(weakref.ref(pixels))
        raise error

    monkeypatch.setattr(segmenter._model, "get_vision_features", features)
    batch = [segmenter.preprocess(image) for image in photographs.values()]
    with pytest.raises(OutOfMemory) as raised:
        segmenter.predict(batch, [("person",)] * len(batch), OPTIONS)
    error.__traceback__ = None  # this test holds the error itself; pytest's own raise would not
    assert raised.value.__context__ is None
    assert held[0]() is None


def test_another_error_of_the_device_comes_through(
    segmenter: Sam3Segmenter, photographs: dict[str, RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    def features(pixels: torch.Tensor) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(segmenter._model, "get_vision_features", features)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        segmenter.predict([segmenter.preprocess(photographs["coffee"])], [("person",)], OPTIONS)
