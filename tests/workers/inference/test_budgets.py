"""What a batch may ask of its device, counted on the full-size architecture without weights or a GPU.

Exact counts, the same on every machine: a change that makes one of them worse fails here. The meta device stands for
the GPU (see `benchmarks.counting`), so what only a GPU could show is not counted: time, and the pinning of memory.
"""

import pytest

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.counting import Counts, count_ours, count_plain

FOUND = 10  # instances of each prompt in each image
PROMPTS = ("cat", "dog", "car", "person", "a red circle", "sky", "tree", "a cup", "road", "house")
IMAGE_BYTES = 1008 * 1008 * 3  # as it travels: uint8
NUMBERS_BYTES = (1 + 200 * 5) * 4  # presence, and score and box of each query
MASK_BYTES = 288 * 288 * 4
SHAPE_BYTES = 2 * 8  # which the library sends in each run of the heads
MB = 10**6

pytestmark = pytest.mark.timeout(600)  # some twenty thousand operations, each seen by Python


@pytest.fixture(scope="module")
def counts() -> dict[tuple[int, int], Counts]:
    """By images of the batch and prompts of each."""
    segmenter = segmenter_of(*full_size("meta"), "meta")
    cases = ((1, 1), (2, 1), (1, 5), (1, 10))
    return {(images, prompts): count_ours(segmenter, images, PROMPTS[:prompts], FOUND) for images, prompts in cases}


@pytest.fixture(scope="module")
def plain() -> Counts:
    return count_plain(*full_size("meta"), images=1, found=FOUND)


def test_what_is_counted_is_the_full_size_model(plain: Counts) -> None:
    assert plain.flops == pytest.approx(6.053e12, rel=1e-3)


@pytest.mark.parametrize(("prompts", "most"), [(1, 1.00), (5, 1.30), (10, 1.66)])
def test_more_prompts_cost_little_more_than_one_forward_of_the_library(
    counts: dict[tuple[int, int], Counts], plain: Counts, prompts: int, most: float
) -> None:
    assert counts[1, prompts].flops <= most * plain.flops


def test_the_host_waits_three_times_a_forward_and_the_plain_loop_ten_times_as_often(
    counts: dict[tuple[int, int], Counts], plain: Counts
) -> None:
    """For the shape that the library sends, for the numbers of all instances and for their masks."""
    assert counts[1, 1].waits == counts[2, 1].waits == 3
    assert plain.waits >= 28


@pytest.mark.parametrize("prompts", [5, 10])
def test_each_further_prompt_makes_the_host_wait_twice(counts: dict[tuple[int, int], Counts], prompts: int) -> None:
    assert counts[1, prompts].waits <= 1 + 2 * prompts


@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (2, 1), (1, 10)])
def test_an_image_travels_as_bytes_and_of_its_masks_only_what_is_kept_comes_back(
    counts: dict[tuple[int, int], Counts], images: int, prompts: int
) -> None:
    assert counts[images, prompts].bytes_to_device <= images * IMAGE_BYTES + prompts * SHAPE_BYTES
    asked = images * prompts
    assert counts[images, prompts].bytes_from_device <= asked * (NUMBERS_BYTES + FOUND * MASK_BYTES)


def test_an_image_more_in_the_batch_takes_438_mb_more(counts: dict[tuple[int, int], Counts], plain: Counts) -> None:
    assert counts[2, 1].peak_bytes - counts[1, 1].peak_bytes <= 438 * MB
    assert counts[1, 1].peak_bytes <= plain.peak_bytes


def test_further_prompts_take_no_more_memory_than_the_masks_that_they_keep(
    counts: dict[tuple[int, int], Counts],
) -> None:
    assert counts[1, 10].peak_bytes - counts[1, 1].peak_bytes <= 9 * FOUND * MASK_BYTES + MB / 10
