"""Turns a Parquet file into rows whose cells keep their types. Knows no SQL, and opens no image.

It follows `producer.sources.source.RowSource`, which says what raises errors and what rejects a row. Needs pyarrow,
the extra `parquet`. The format: https://parquet.apache.org/docs/file-format/.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from db.intake import NewRow
from producer.sources.cells import BadRow, one_line, quoted
from producer.sources.columns import choose_columns
from producer.sources.file import HASH_DIGITS
from producer.sources.file_source import FIRST_ROWS, RANDOM_ROWS, FileSource
from producer.sources.first_bytes import FirstBytes
from producer.sources.rows import RowRules
from producer.sources.sampling import sampled
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, Survey
from workers.errors import UsageError, first_line

MAGIC = b"PAR1"
ROWS_AT_ONCE = 1000  # that are read and held at once; fewer if rows are long: then about BYTES_AT_ONCE
BYTES_AT_ONCE = 4 << 20
BUFFER_BYTES = 1 << 20  # of each column, so that no row group is held as a whole
_GROUPS = re.compile(r" parquet (\d+)")


class ParquetSource(FileSource):
    """Rows of a Parquet file.

    Columns of bytes are left out. A file that grew is one whose first row groups hold the same bytes as before.
    """

    kind = "Parquet file"

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(path, options)
        if options.encoding or options.delimiter:
            raise UsageError(f"{self.file.shown}: is a {self.kind}; --encoding and --delimiter are for files of text")
        if find_spec("pyarrow") is None:
            install = "pip install 'sam3-queue[parquet]', or write it as CSV"
            raise UsageError(f"{self.file.shown}: is a {self.kind}, which needs pyarrow: {install}")
        self._choose(options)
        self._rules = RowRules(self.columns, self.root, confined=self.confined, needs_prompt=options.needs_prompt)

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        first = FirstBytes(path)
        return first.content.startswith(MAGIC) or first.name.endswith((".parquet", ".pq"))

    def _choose(self, options: ReadOptions) -> None:
        from producer.sources.arrow_types import is_kept, is_text, type_of, type_text

        with self._opened() as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        shown = self.file.shown
        if not rows:
            raise UsageError(f"{shown} has no rows")
        columns = choose_columns(shown, tuple(schema.names), options.image_column, options.prompt_column)
        types = {field.name: type_text(field.type) for field in schema if is_kept(field.type)}
        if columns.image not in types or not is_text(type_of(types[columns.image])):
            held = one_line(str(schema.field(columns.image).type))[:100]
            paths = f"column {quoted(columns.image)} holds {held}, no paths"
            raise UsageError(f"{shown}: {paths}; name the column of paths with --image-column")
        self.columns = replace(columns, names=tuple(types), types=types)
        left_out = [quoted(name) for name in schema.names if name not in types]
        self.told = f"without {', '.join(left_out)}: bytes are not kept" if left_out else ""

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Whether the file is as an earlier survey found it. Does not read its content."""
        is_parquet = _GROUPS.fullmatch(known_sha256[HASH_DIGITS:]) is not None
        return is_parquet and self.file.is_still(known_size, known_mtime_ns, "")

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Read the paths, and hash the bytes of all row groups. Raises `UsageError` for a damaged file."""
        with self._opened() as parquet:
            paths = ({self.columns.image: path} for path in self._paths(parquet))
            rows, sample = sampled(paths, FIRST_ROWS, RANDOM_ROWS)
            stamps = list(self._stamps(parquet))
        self.file.refuse_change()
        picked = [(number, self._row(cells, number, clean=False)) for number, cells in sample]
        return Survey(
            size=self.file.stat.st_size,
            mtime_ns=self.file.stat.st_mtime_ns,
            sha256=stamps[-1],
            rows=rows,
            continues=known_sha256 in stamps,
            sample=tuple((number, row.path) for number, row in picked if row.rejected is None),
        )

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The rows after the first `skip`, good and rejected, in the file's order. Skips whole row groups unread."""
        number = 0
        with self._opened() as parquet:
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                if number + size <= skip:
                    number += size
                    continue
                for batch in self._batches(parquet, group, list(self.columns.names)):
                    rows = self._rows_of(batch, number)
                    number += batch.num_rows
                    self.file.refuse_change()
                    yield from rows[max(0, skip - number + batch.num_rows) :]

    def _batches(self, parquet: Any, group: int, columns: list[str]) -> Iterator[Any]:
        found = parquet.metadata.row_group(group)
        size = sum(column.total_uncompressed_size for column in self._kept(found))
        rows = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * found.num_rows // max(1, size)))
        yield from parquet.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)

    def _rows_of(self, batch: Any, number: int) -> list[NewRow]:
        """The rows of a batch, before which the file has `number` rows."""
        names = self.columns.names
        clean, columns = True, []
        for column in batch.columns:
            values, is_clean = _values(column)
            columns.append(values)
            clean = clean and is_clean
        cells = zip(*columns, strict=True)
        return [
            self._row(dict(zip(names, row, strict=True)), place, clean=clean) for place, row in enumerate(cells, number)
        ]

    def _row(self, cells: dict[str, Any], place: int, *, clean: bool) -> NewRow:
        try:
            return self._rules.typed_row(cells, clean=clean)
        except BadRow as bad:
            return self._rules.rejected_values(cells, f"{self.file.name}: row {place + 1}", bad)

    def _paths(self, parquet: Any) -> Iterator[Any]:
        for group in range(parquet.num_row_groups):
            for batch in self._batches(parquet, group, [self.columns.image]):
                yield from _values(batch.column(0))[0]

    def _stamps(self, parquet: Any) -> Iterator[str]:
        """For each row group the hash of it and of all before it, and how many these are."""
        digest = sha256(repr((self.columns.names, self.columns.types)).encode())
        with self.file.open() as file:
            for number in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(number)
                digest.update(b"%d" % group.num_rows)
                for column in self._kept(group):
                    _hash(file, column, digest)
                yield f"{digest.hexdigest()} parquet {number + 1}"

    def _kept(self, group: Any) -> Iterator[Any]:
        """The columns of a row group whose cells are kept. A list or struct has several, named `column.part`."""
        names = self.columns.names
        begin = tuple(f"{name}." for name in names)
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in names or column.path_in_schema.startswith(begin):
                yield column

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow
        from pyarrow import parquet

        try:
            # Without its own reading ahead, which would hold whole row groups.
            with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            self.file.refuse_change()
            damaged = f"its Parquet data are damaged or cut off ({one_line(first_line(error))[:100]})"
            raise UsageError(f"{self.file.shown}: {damaged}; copy or make it again") from error


def _values(column: Any) -> tuple[list[Any], bool]:
    """The cells of a column, and whether each text in it is printable. Bytes that are no text become surrogates."""
    from pyarrow import binary

    from producer.sources.arrow_types import is_printable, values_of

    try:
        return values_of(column), is_printable(column)
    except UnicodeDecodeError:
        raw = column.cast(binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw], False


def _hash(file: io.RawIOBase, column: Any, digest: Any) -> None:
    """Hash the bytes of a column of a row group."""
    starts = [start for start in (column.dictionary_page_offset, column.data_page_offset) if start]
    file.seek(min(starts))
    left = column.total_compressed_size
    while left > 0 and (block := file.read(min(left, BUFFER_BYTES))):
        digest.update(block)
        left -= len(block)
