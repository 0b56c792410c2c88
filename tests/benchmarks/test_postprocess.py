"""The post-processing benchmark: that both ways make the same masks, and the memory of ours."""

import pytest

from benchmarks import postprocess

pytestmark = pytest.mark.long


def test_not_a_pixel_differs_from_the_library() -> None:
    rows = postprocess.measure(repeats=1)
    assert len(rows) == len(postprocess.CASES)
    assert [row["pixels that differ"] for row in rows] == [0] * len(rows)
    assert all(row["same RLE bytes"] for row in rows)


def test_a_hundred_masks_of_twelve_megapixels_stay_under_300_mb() -> None:
    (row,) = postprocess.measure_memory()
    assert row["masks"] == 100
    assert row["ours, peak MB over base"] < 300
