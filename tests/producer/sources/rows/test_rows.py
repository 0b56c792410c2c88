"""What one transaction takes: so many rows, fewer if they are wide, and whole chunks where that is possible."""

import pytest

from db.intake import NewRow
from producer.sources.rows.rules import CUT_CHUNK_CHARACTERS, SLICE_CHARACTERS, row_slice

HALF = NewRow("", {"note": "x" * (SLICE_CHARACTERS // 2)})
TWICE = NewRow("", {"note": "x" * 1000, "more": "y" * (2 * SLICE_CHARACTERS)})
HUGE = NewRow("", {"note": "x" * CUT_CHUNK_CHARACTERS})


@pytest.mark.parametrize(
    ("row", "chunk_size", "taken"),
    [
        (NewRow("a.jpg"), 4, [100, 100, 60]),
        (NewRow("a.jpg"), 64, [64, 64, 64, 64, 4]),
        (NewRow("a.jpg"), 256, [100, 100, 60]),  # a chunk larger than a slice
        (HALF, 1, [2] * 130),
        (HALF, 4, [4] * 65),
        (HALF, 256, [8] * 32 + [4]),  # a whole chunk would be too much
        (TWICE, 4, [2] * 130),
        (HUGE, 4, [1] * 260),
    ],
)
def test_a_slice_ends_with_the_chunk_that_fills_it(row: NewRow, chunk_size: int, taken: list[int]) -> None:
    rows = iter([row] * 260)
    seen = []
    while slice_ := row_slice(rows, 100, chunk_size):
        seen.append(len(slice_))
    assert seen == taken
