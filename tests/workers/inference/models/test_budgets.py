"""What a batch may ask of its device, counted on the full-size architecture without weights or a GPU.

Exact counts, the same on every machine: a change that makes one of them worse fails here. The meta device stands for
the GPU (see `benchmarks.counting`), so what only a GPU could show is not counted: time, and the pinning of memory.
"""

import pytest
import torch

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.counting import Counts, count_ours, count_plain, count_texts, count_vision
from workers.inference.boxes import Box
from workers.inference.models import torch_precision
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.segmenters import Precision

FOUND = 10  # instances of each prompt in each image
PROMPTS = ("cat", "dog", "car", "person", "a red circle", "sky", "tree", "a cup", "road", "house")
IMAGE_BYTES = 1008 * 1008 * 3  # as it travels: uint8
NUMBERS_BYTES = (1 + 200 * 5) * 4  # presence, and score and box of each query
MASK_BYTES = 288 * 288 * 4
MB = 10**6

pytestmark = pytest.mark.long  # some twenty thousand operations, each seen by Python


@pytest.fixture(scope="module")
def segmenter() -> Sam3Segmenter:
    return segmenter_of(*full_size("meta"), "meta")


@pytest.fixture(scope="module")
def counts(segmenter: Sam3Segmenter) -> dict[tuple[int, int], Counts]:
    """By images of the batch and prompts of each."""
    cases = ((1, 1), (2, 1), (1, 5), (1, 10))
    return {(images, prompts): count_ours(segmenter, [PROMPTS[:prompts]] * images, FOUND) for images, prompts in cases}


@pytest.fixture(scope="module")
def plain() -> Counts:
    return count_plain(*full_size("meta"), found=FOUND)


def test_what_is_counted_is_the_full_size_model(plain: Counts) -> None:
    assert plain.flops == pytest.approx(6.053e12, rel=1e-3)


@pytest.mark.parametrize(("case", "gflop", "kernels"), [((1, 1), 6_021, 1_003), ((2, 1), 12_042, 1_003),
                                                        ((1, 5), 7_652, 3_443), ((1, 10), 9_689, 6_498)])  # fmt: skip
def test_no_more_is_asked_of_the_device_than_today(
    counts: dict[tuple[int, int], Counts], case: tuple[int, int], gflop: int, kernels: int
) -> None:
    assert counts[case].flops <= gflop * 1e9
    assert counts[case].kernels <= kernels


def test_mixed_precision_takes_a_cast_here_and_there_and_no_more_memory(counts: dict[tuple[int, int], Counts]) -> None:
    mixed = count_ours(segmenter_of(*full_size("meta"), "meta", "mixed"), [PROMPTS[:1]], FOUND)
    fp32 = counts[1, 1]
    assert (mixed.flops, mixed.waits) == (fp32.flops, fp32.waits)
    assert mixed.kernels <= 1_096
    assert mixed.peak_bytes <= fp32.peak_bytes <= 303 * MB


@pytest.mark.parametrize(("dtype", "most"), [("fp32", 0.496), ("mixed", 0.5)])
def test_the_vision_encoder_moves_half_the_bytes_that_the_librarys_does_in_that_precision(
    dtype: Precision, most: float
) -> None:
    """What is left are sums, GELU, and one turning of queries and keys."""
    theirs, _ = full_size("meta")
    if dtype == "mixed":
        torch_precision.cast(theirs.vision_encoder.backbone, torch.bfloat16)
    ours = segmenter_of(*full_size("meta"), "meta", dtype)._model
    assert count_vision(ours).elementwise_bytes <= most * count_vision(theirs).elementwise_bytes


@pytest.mark.parametrize(("prompts", "most"), [(1, 0.995), (5, 1.265), (10, 1.601)])
def test_more_prompts_cost_little_more_than_one_forward_of_the_library(
    counts: dict[tuple[int, int], Counts], plain: Counts, prompts: int, most: float
) -> None:
    assert counts[1, prompts].flops <= most * plain.flops


def test_the_host_waits_twice_a_batch_and_the_plain_loop_fourteen_times_as_often(
    counts: dict[tuple[int, int], Counts], plain: Counts
) -> None:
    """For the numbers of all instances and for their masks."""
    assert counts[1, 1].waits == counts[2, 1].waits == 2
    assert plain.waits >= 28


@pytest.mark.parametrize("asked", [("cat", "cat"), ("cat", "dog"), ("cat", "a red circle")])
def test_a_forward_pass_returns_while_the_device_works_and_brings_nothing_back(
    segmenter: Sam3Segmenter, asked: tuple[str, str]
) -> None:
    """Also if the prompts of its rows differ, and in length."""
    forward = count_ours(segmenter, [(prompt,) for prompt in asked], FOUND, forward_only=True)
    assert (forward.waits, forward.bytes_from_device) == (0, 0)


def test_boxes_make_the_host_wait_twice_and_cost_a_thousandth_of_the_arithmetic(
    segmenter: Sam3Segmenter, counts: dict[tuple[int, int], Counts]
) -> None:
    """The library looks whether any place for a box is padding, and brings the size of its features to the device."""
    boxes = (Box(10, 20, 300, 400, True), Box(500, 20, 700, 400, False))
    boxed = count_ours(segmenter, [PROMPTS[:1]] * 2, FOUND, forward_only=True, boxes=boxes)
    assert (boxed.waits, boxed.bytes_from_device) == (2, 0)
    assert boxed.flops <= 1.001 * counts[2, 1].flops
    assert boxed.kernels <= 1_162
    assert boxed.peak_bytes <= counts[2, 1].peak_bytes + MB / 10


def test_eight_new_prompts_are_one_run_of_the_text_encoder_without_a_wait() -> None:
    """No more than a tenth of a forward pass."""
    new = count_texts(segmenter_of(*full_size("meta"), "meta"), PROMPTS[:8])
    assert (new.waits, new.bytes_from_device) == (0, 0)
    assert new.kernels <= 310
    assert new.flops < 0.2e12


@pytest.mark.parametrize(("asked", "waits"), [([("cat", "dog"), ("car",)], 3), ([("cat",), ("a red circle",)], 2)])
def test_a_batch_waits_for_the_numbers_of_each_run_of_its_heads_and_once_for_its_masks(
    segmenter: Sam3Segmenter, asked: list[tuple[str, ...]], waits: int
) -> None:
    assert count_ours(segmenter, asked, FOUND).waits == waits


@pytest.mark.parametrize("prompts", [5, 10])
def test_each_further_prompt_makes_the_host_wait_once(counts: dict[tuple[int, int], Counts], prompts: int) -> None:
    assert counts[1, prompts].waits == 1 + prompts


@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (2, 1), (1, 10)])
def test_an_image_travels_as_bytes_and_of_its_masks_only_what_is_kept_comes_back(
    counts: dict[tuple[int, int], Counts], images: int, prompts: int
) -> None:
    assert counts[images, prompts].bytes_to_device <= images * IMAGE_BYTES
    asked = images * prompts
    assert counts[images, prompts].bytes_from_device <= asked * (NUMBERS_BYTES + FOUND * MASK_BYTES)


def test_an_image_more_in_the_batch_takes_303_mb_more(counts: dict[tuple[int, int], Counts], plain: Counts) -> None:
    assert counts[2, 1].peak_bytes - counts[1, 1].peak_bytes <= 303 * MB
    assert counts[1, 1].peak_bytes <= plain.peak_bytes


def test_further_prompts_take_no_more_memory_than_the_masks_that_they_keep(
    counts: dict[tuple[int, int], Counts],
) -> None:
    assert counts[1, 10].peak_bytes - counts[1, 1].peak_bytes <= 9 * FOUND * MASK_BYTES + MB / 10
