"""What SAM3 keeps of its answers, in how much memory, and what is let go when memory runs out."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.postprocess import peak_mb
from tests.workers.inference.models.sam3_answers import OPTIONS, last
from workers.inference.answers import Found
from workers.inference.models import sam3_heads, sam3_model
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import OutOfMemory
from workers.inference.reading.images import RGB
from workers.inference.shapes import masks


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
