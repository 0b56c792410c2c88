"""Turns Parquet, a file or a folder of them, into rows whose cells keep their types. Knows no SQL, and opens no image.

It follows `producer.sources.source.RowSource`, which says what raises errors and what rejects a row. Needs pyarrow,
the extra `parquet`.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from db.intake import NewRow
from producer.libraries import is_installed
from producer.sources.file import HASH_DIGITS
from producer.sources.file_source import FIRST_ROWS, RANDOM_ROWS
from producer.sources.first_bytes import FirstBytes
from producer.sources.parquet.parquet_columns import PartsColumns
from producer.sources.parquet.parquet_part import KIND, ParquetPart, values
from producer.sources.parts import FILES, by_number, files_stamp, folders_told, size_and_time
from producer.sources.pattern import fixed_folder, is_pattern
from producer.sources.rows.cells import BadRow, escaped
from producer.sources.rows.rules import RowRules
from producer.sources.sampling import sampled
from producer.sources.selection import (
    HIDDEN,
    IMAGE,
    NO_IMAGE,
    NO_PARQUET,
    PARQUET,
    PARQUET_MAGIC,
    PARQUET_SUFFIXES,
    LeftOut,
    Tally,
)
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RowSource, Survey, require_prompts
from producer.sources.walk import DELTA, delta, mixture, walk_below
from workers.cli.base import counted
from workers.errors import UsageError
from workers.inference.reading.formats import SUFFIXES
from workers.places import location


class ParquetSource(RowSource):
    """Rows of a Parquet file.

    Columns of bytes are left out. A source that grew is one whose first row groups hold the same bytes as before.
    """

    kind = KIND

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        require_prompts(options)
        shown = escaped(options.copy_of or str(path))
        self.path = Path(os.path.abspath(path))
        self.place = options.copy_of or str(self.path)
        self.confined = options.root is not None
        self.root = location.absolute(str(options.root or options.base or self._folder()))
        self.follow_symlinks = options.follow_symlinks
        self._parts = self._found(path, options)
        if options.encoding or options.delimiter:
            raise UsageError(f"{shown}: is a {self.kind}; --encoding and --delimiter are for files of text")
        if not is_installed("pyarrow"):
            install = "pip install 'sam3-queue[parquet]', or write it as CSV"
            raise UsageError(f"{shown}: is a {self.kind}, which needs pyarrow: {install}")
        found = PartsColumns()
        self._sizes = [_rows_after_noting(part, found) for part in self._parts]
        if not any(self._sizes):
            raise UsageError(f"{shown} has no rows")
        self._held, self.columns = found.held, found.choose(shown, options)
        self.told = self._told(found.left_out)
        self._rules = RowRules(self.columns, self.root, confined=self.confined, needs_prompt=options.needs_prompt)

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        first = FirstBytes(path)
        return first.content.startswith(PARQUET_MAGIC) or first.name.endswith(PARQUET_SUFFIXES)

    def _folder(self) -> Path:
        """Where relative paths start if the user names no folder."""
        return self.path.parent

    def _found(self, path: Path, options: ReadOptions) -> Sequence[ParquetPart]:
        """The files in the order of their rows, at least one."""
        return (ParquetPart(path, path.name),)

    def _told(self, left_out: Sequence[str]) -> str:
        return f"without {', '.join(left_out)}: bytes are not kept" if left_out else ""

    @property
    def _files(self) -> str:
        """Text for the end of the hash of a survey: how the files lie there. A single file is known by its path."""
        return ""

    @property
    def _seen(self) -> tuple[int, int]:
        return size_and_time(part.file for part in self._parts)

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Whether the files are as an earlier survey found them. Does not read their content."""
        is_same = re.fullmatch(rf" parquet \d+{self._files}", known_sha256[HASH_DIGITS:]) is not None
        return is_same and (known_size, known_mtime_ns) == self._seen

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Read the paths, and hash the bytes of all row groups. Raises `UsageError` for a damaged file."""
        paths = ({self.columns.image: path} for path in self._paths())
        rows, sample = sampled(paths, FIRST_ROWS, RANDOM_ROWS)
        stamps = list(self._stamps())
        for part in self._parts:
            part.file.refuse_change()
        of_paths = RowRules(self.columns, self.root, confined=self.confined)  # no row lacks a prompt: none was read
        picked = [(number, _row(of_paths, cells, "", number, clean=False)) for number, cells in sample]
        size, mtime_ns = self._seen
        return Survey(
            size=size,
            mtime_ns=mtime_ns,
            sha256=stamps[-1] + self._files,
            rows=rows,
            continues=known_sha256 is not None and known_sha256.partition(FILES)[0] in stamps,
            sample=tuple((number, row.path) for number, row in picked if row.rejected is None),
        )

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The rows after the first `skip`, good and rejected, in the files' order. Skips whole row groups unread."""
        for part, size in zip(self._parts, self._sizes, strict=True):
            if size > skip:
                yield from self._rows_of(part, skip)
            skip = max(0, skip - size)

    def _rows_of(self, part: ParquetPart, skip: int) -> Iterator[NewRow]:
        number, names = 0, self._held
        added = {name: cell for name, cell in part.of_folders.items() if name not in names}
        with part.opened() as parquet:
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                if number + size <= skip:
                    number += size
                    continue
                for columns in part.batches(parquet, group, names, names):
                    rows = self._rows_in(columns, added, part.file.name, number)
                    number += len(rows)
                    part.file.refuse_change()
                    yield from rows[max(0, skip - number + len(rows)) :]

    def _rows_in(self, batch: list[Any], added: dict[str, str | None], where: str, number: int) -> list[NewRow]:
        """The rows of a batch, before which the file has `number` rows. `added` are cells that each of them gets."""
        clean, columns = all(text.isprintable() for text in added.values() if text), []
        for column in batch:
            cells, is_clean = values(column)
            columns.append(cells)
            clean = clean and is_clean
        names = (*self._held, *added)
        together = zip(*columns, *([cell] * len(columns[0]) for cell in added.values()), strict=True)
        return [
            _row(self._rules, dict(zip(names, row, strict=True)), where, place, clean=clean)
            for place, row in enumerate(together, number)
        ]

    def _paths(self) -> Iterator[Any]:
        for part in self._parts:
            with part.opened() as parquet:
                for group in range(parquet.num_row_groups):
                    for columns in part.batches(parquet, group, self._held, [self.columns.image]):
                        yield from values(columns[0])[0]

    def _stamps(self) -> Iterator[str]:
        """For each row group the hash of it and of all before it, and how many these are."""
        digest = sha256(repr((self.columns.names, self.columns.types)).encode())
        groups = (group for part in self._parts for group in part.hash_groups(self._held, digest))
        for number, _ in enumerate(groups, start=1):
            yield f"{digest.hexdigest()} parquet {number}"


class ParquetFolderSource(ParquetSource):
    """Rows of all Parquet files in a folder and below it, or of those that match a pattern, in the order of the paths.

    Numbers in names count as numbers: `part.10` comes after `part.9`. As for Spark, names that begin with `_` or a dot
    are no rows.
    """

    kind = "folder of Parquet files"

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        """Whether the first file that counts, an image or a Parquet file, is a Parquet file.

        With options that only rows have, images do not count: then a mixture is refused as one.
        """
        of_rows = any((options.image_column, options.prompt_column, options.box_column, options.root))
        is_folder = path.is_dir()
        if not (is_folder or is_pattern(path)) or (is_folder and not of_rows and _begins_with_an_image(path)):
            return False
        walk = walk_below(path, options, wanted=(PARQUET,) if of_rows else (IMAGE, PARQUET))
        first = next((name for name in walk.paths() if not name.endswith("/")), None)
        return first is not None and walk.selection.of_file(first) == PARQUET

    def _folder(self) -> Path:
        return fixed_folder(self.path) if is_pattern(self.path) else self.path

    def _found(self, path: Path, options: ReadOptions) -> Sequence[ParquetPart]:
        walk, tally = walk_below(path, options, wanted=(PARQUET,)), Tally()
        names = sorted((name for name in walk.paths(tally) if not name.endswith("/")), key=by_number)
        folder = walk.folder
        if (folder / DELTA).is_dir():
            raise delta(str(path))
        if images := [one for one in tally.left_out if one.reason == IMAGE]:
            raise mixture(path, folder, images[0].example, names[0])
        self.left_out = tuple(_without_images(one) for one in tally.left_out if one.reason != HIDDEN)
        shown = path if not is_pattern(path) else fixed_folder(path)
        return [ParquetPart(shown / name, name, options.copy_of and f"{options.base}/{name}") for name in names]

    def _told(self, left_out: Sequence[str]) -> str:
        told = [f"as {counted(len(self._parts), 'Parquet file')}", super()._told(left_out)]
        told.append(folders_told(self.columns, self._held))
        return "; ".join(filter(None, told))

    @property
    def _files(self) -> str:
        return files_stamp(part.file for part in self._parts)


def _begins_with_an_image(folder: Path) -> bool:
    """Whether the first entry of a folder is an image, so that a large folder of images need not be walked for this."""
    with suppress(OSError), os.scandir(folder) as entries:
        first = next(entries, None)
        return first is not None and first.name.lower().endswith(SUFFIXES)
    return False


def _row(rules: RowRules, cells: dict[str, Any], where: str, place: int, *, clean: bool) -> NewRow:
    try:
        return rules.typed_row(cells, clean=clean)
    except BadRow as bad:
        return rules.rejected_values(cells, f"{where}: row {place + 1}", bad)


def _rows_after_noting(part: ParquetPart, columns: PartsColumns) -> int:
    """How many rows the file has. Raises `UsageError` if its columns are not those of the files before it."""
    with part.opened() as parquet:
        columns.add(part, parquet.schema_arrow)
        return int(parquet.metadata.num_rows)


def _without_images(one: LeftOut) -> LeftOut:
    return replace(one, reason=NO_PARQUET) if one.reason == NO_IMAGE else one
