"""How many rows one transaction takes: bounded by their number and by their size. Knows no SQL and no files."""

from collections.abc import Iterator

from db.intake import NewRow

# While a slice is written, its rows are held several times over: as they were read, as JSON, as parameters.
SLICE_CHARACTERS = 4_000_000
CUT_CHUNK_CHARACTERS = 4 * SLICE_CHARACTERS  # not even for whole chunks


def row_slice(rows: Iterator[NewRow], most: int, chunk_size: int) -> list[NewRow]:
    """The next rows, at most `most` of them, which end once they hold `SLICE_CHARACTERS`; none at the end.

    The slice ends with a whole chunk, if none of its rows is rejected: what remains of one would be a chunk of its own.
    Only a slice smaller than a chunk, or one with rows as wide as pages, may end anywhere.
    """
    slice_: list[NewRow] = []
    whole, size = most // chunk_size * chunk_size or most, 0
    for row in rows:
        slice_.append(row)
        size += _characters(row)
        count = len(slice_)
        if count == whole or size >= CUT_CHUNK_CHARACTERS or (size >= SLICE_CHARACTERS and count % chunk_size == 0):
            break
    return slice_


def _characters(row: NewRow) -> int:
    return len(row.path) + (sum(map(len, row.cells.values())) if row.cells else 0)
