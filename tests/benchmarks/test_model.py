"""The benchmarks of the model run, with few repeats and the tiny architecture; their figures mean nothing here."""

import pytest

from benchmarks import model


@pytest.mark.long
def test_reading_is_measured_and_no_pixel_differs_from_pillow() -> None:
    rows = model.measure_reading(repeats=1)
    assert [(row["JPEG"], row["pixels that differ"]) for row in rows] == [(size, 0) for size in model.SIZES]


@pytest.mark.long
def test_shortcuts_are_compared_and_timed() -> None:
    differences, [times] = model.measure_random("tiny, random weights")
    assert {row["largest difference"].partition(",")[0] for row in differences} == {
        "text and vision cached", "prompt trimmed to its tokens", "batch of 2"
    }  # fmt: skip
    assert all(row[""] <= 1e-5 for row in differences)
    assert times["ours, 1 prompt"] > 0


@pytest.mark.long
def test_what_a_batch_asks_of_its_device_is_counted_for_every_row_of_the_table() -> None:
    rows = model.measure_counts([(2, 2)])
    assert [(row[""], row["images"], row["prompts"]) for row in rows] == [
        ("plain loop", 1, 1), ("ours", 2, 2), ("ours, mixed", 1, 1)
    ]  # fmt: skip
    assert all(row["host waits a batch"] >= 0 and row["GFLOP an image"] > 0 for row in rows)
