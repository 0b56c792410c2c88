"""One Parquet file: its columns, its rows in batches, the bytes of its row groups. Knows no rules of rows.

Needs pyarrow, the extra `parquet`. The format: https://parquet.apache.org/docs/file-format/.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from producer.sources.file import SourceFile
from producer.sources.hints import new_file
from producer.sources.parts import folder_cells
from producer.sources.rows.cells import escaped
from producer.sources.text.encoding import advised
from workers.errors import UsageError, first_line

KIND = "Parquet file"
ROWS_AT_ONCE = 1000  # that are read and held at once; fewer if rows are long: then about BYTES_AT_ONCE
BYTES_AT_ONCE = 4 << 20
BUFFER_BYTES = 1 << 20  # of each column, so that no row group is held as a whole


class ParquetPart:
    """A Parquet file at `path`, which errors about its rows call `name`: its path below the source's folder."""

    def __init__(self, path: Path, name: str, copy_of: str | None = None) -> None:
        self.file = SourceFile(path, KIND, copy_of)
        self.file.name = escaped(name)
        self.of_folders = folder_cells(self.file.name)
        if self.file.gzipped:
            unpack = f"gunzip < {shlex.quote(self.file.shown)} > {new_file(self.file.shown, 'unpacked', '.parquet')}"
            advice = advised(self.file, f"unpack it first: {unpack}")
            raise UsageError(f"{self.file.shown}: is gzipped, and no {KIND} then; {advice}")

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open it as pyarrow's `ParquetFile`. Raises `UsageError` if it is damaged, also while it is read."""
        import pyarrow
        from pyarrow import parquet

        try:
            # Without its own reading ahead, which would hold whole row groups.
            with parquet.ParquetFile(self.file.path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            self.file.refuse_change()
            damaged = f"its Parquet data are damaged or cut off ({escaped(first_line(error))[:100]})"
            raise UsageError(f"{self.file.shown}: {damaged}; copy or make it again") from error

    def batches(self, parquet: Any, group: int, names: Sequence[str], wanted: Sequence[str]) -> Iterator[list[Any]]:
        """The columns `wanted` of a row group, a few rows at a time; `names` are all columns that are kept."""
        found = parquet.metadata.row_group(group)
        size = sum(column.total_uncompressed_size for column in _kept(found, names))
        rows = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * found.num_rows // max(1, size)))
        for batch in parquet.iter_batches(rows, row_groups=[group], columns=list(wanted), use_threads=False):
            yield [batch.column(name) for name in wanted]

    def hash_groups(self, names: Sequence[str], digest: Any) -> Iterator[None]:
        """Hash the bytes of the columns `names`, a row group at each step."""
        if self.of_folders:
            digest.update(repr(self.of_folders).encode())
        with self.opened() as parquet, self.file.open() as file:
            for number in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(number)
                digest.update(b"%d" % group.num_rows)
                for column in _kept(group, names):
                    _hash(file, column, digest)
                yield


def _kept(group: Any, names: Sequence[str]) -> Iterator[Any]:
    """The columns of a row group whose cells are kept. A list or struct has several, named `column.part`."""
    begin = tuple(f"{name}." for name in names)
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema in names or column.path_in_schema.startswith(begin):
            yield column


def _hash(file: Any, column: Any, digest: Any) -> None:
    """Hash the bytes of a column of a row group."""
    starts = [start for start in (column.dictionary_page_offset, column.data_page_offset) if start]
    file.seek(min(starts))
    left = column.total_compressed_size
    while left > 0 and (block := file.read(min(left, BUFFER_BYTES))):
        digest.update(block)
        left -= len(block)


def values(column: Any) -> tuple[list[Any], bool]:
    """The cells of a column, and whether each text in it is printable. Bytes that are no text become surrogates."""
    from pyarrow import binary

    from producer.sources.parquet.arrow_types import is_printable, values_of

    try:
        return values_of(column), is_printable(column)
    except UnicodeDecodeError:
        raw = column.cast(binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw], False
