"""Turns several files of text of one kind, such as `lists/*.csv`, into rows, one file after the other. Knows no format.

It follows `producer.sources.source.RowSource`; each file is a source of its kind. Files of Parquet are read by
`producer.sources.parquet.parquet_source`.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import ClassVar

from db.intake import NewRow
from producer.sources.file import HASH_DIGITS
from producer.sources.file_source import FIRST_ROWS, RANDOM_ROWS
from producer.sources.parts import (
    FILES,
    by_number,
    files_stamp,
    folder_cells,
    folders_told,
    require_same_columns,
    size_and_time,
    with_folder_columns,
)
from producer.sources.pattern import fixed_folder, is_pattern
from producer.sources.rows.cells import escaped
from producer.sources.sampling import sampled
from producer.sources.selection import HIDDEN, NO_ROWS, ROWS, ROWS_SUFFIXES, Tally, told_left_out
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RowSource, Survey, require_prompts
from producer.sources.text.csv_source import CsvSource
from producer.sources.text.jsonl_source import JsonLinesSource, column_types, common_types
from producer.sources.text.list_source import ListSource
from producer.sources.text.text_source import NoRows, TextSource
from producer.sources.walk import walk_below
from workers.errors import UsageError
from workers.places import location

_COUNTED = " files "  # begins the part of the hash of a survey which says how many files it is of

AnyText = TextSource[str] | TextSource[list[str]]


class PartsSource(RowSource):
    """Rows of the files that match a pattern which ends like `*.csv`, `*.jsonl.gz` or `*.txt`.

    If they are copies of objects of a bucket that do, they are all files of a folder.

    The files come in the order of their paths, in which numbers count as numbers. Relative paths start at the fixed
    part of the pattern. Files without a row are left out. New files behind the old ones continue a source.
    """

    kind = "group of files"
    KINDS: ClassVar[Sequence[type[AnyText]]] = (JsonLinesSource, ListSource, CsvSource)

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        require_prompts(options)
        self._shown = escaped(options.copy_of or str(path))
        walk, tally = walk_below(path, options, wanted=(ROWS,)), Tally()
        names = sorted((name for name in walk.paths(tally) if not name.endswith("/")), key=by_number)
        self.place = options.copy_of or os.path.abspath(path)
        self.root = location.absolute(str(options.root or options.base or walk.folder))
        self.confined, self.follow_symlinks = options.root is not None, options.follow_symlinks
        self._parts = self._opened(
            fixed_folder(path) if is_pattern(path) else path,
            names,
            replace(options, base=options.base or walk.folder),
            tally,
        )
        self._of_folders = [folder_cells(part.file.name) for part in self._parts]
        self.left_out = tuple(one for one in tally.left_out if one.reason != HIDDEN)
        if not self._parts:
            there = f"; left out: {told_left_out(self.left_out)}" if self.left_out else ""
            raise UsageError(f"{self._shown}: matches no file with rows{there}")
        self._merge()
        self._sizes = list[int]()  # rows of each file, once they were counted
        ways = dict.fromkeys(part.told for part in self._parts if part.told)
        told = f"as {len(self._parts):,} files" if len(self._parts) > 1 else "as 1 file"
        self.told = "; ".join(filter(None, (" and ".join((told, *ways)), folders_told(self.columns, self._held.names))))

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        is_copied = options.copy_of is not None and path.is_dir()
        return (options.copy_of or path.name).lower().endswith(ROWS_SUFFIXES) and (is_copied or is_pattern(path))

    @property
    def named_columns(self) -> dict[str, str]:
        return self._parts[0].named_columns

    def _opened(self, folder: Path, names: Sequence[str], options: ReadOptions, tally: Tally) -> list[AnyText]:
        """The files with rows as sources. Raises `UsageError` if they are not all of one kind with the same columns."""
        parts: list[AnyText] = []
        for name in names:
            path = folder / name
            kind = next(kind for kind in self.KINDS if kind.takes(path, options))
            if parts and not isinstance(parts[0], kind):
                fault = f"{escaped(name)} is a {kind.kind}, {parts[0].file.name} a {parts[0].kind}"
                raise UsageError(f"{self._shown}: {fault}; give files of one kind")
            url = f"{options.base}/{name}" if options.copy_of else None
            try:
                part = kind(path, replace(options, copy_of=url))
            except NoRows:
                tally.add(NO_ROWS, name)
                continue
            part.file.name = escaped(name)
            if parts and kind is CsvSource:
                require_same_columns(parts[0].file, parts[0].columns.names, part.file, part.columns.names)
            if not parts and part.named_columns:  # of later files the same column has the paths
                options = replace(options, image_column=part.columns.image)
            parts.append(part)
        return parts

    def _merge(self) -> None:
        """Note the columns of the first file, of JSON Lines the names and types in all files, and those of folders."""
        first = self._parts[0].columns
        found = [part.types for part in self._parts if isinstance(part, JsonLinesSource)]
        types = column_types(common_types(found), first.image)
        self._held = replace(first, names=tuple(types), types=types) if found else first
        self.columns = with_folder_columns(self._shown, self._held, chain.from_iterable(self._of_folders))

    @property
    def _seen(self) -> tuple[int, int]:
        return size_and_time(part.file for part in self._parts)

    @property
    def _files(self) -> str:
        return files_stamp(part.file for part in self._parts)

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Whether the files are as an earlier survey found them. Does not read their content."""
        same = known_sha256[HASH_DIGITS:] == f"{_COUNTED}{len(self._parts)}{self._files}"
        return same and (known_size, known_mtime_ns) == self._seen

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Read all files once. `continues` says that the files of the earlier survey are the first ones, unchanged."""
        stamps, digest, self._sizes = list[str](), sha256(), []

        def samples() -> Iterator[tuple[int, str]]:
            for part in self._parts:
                found = part.survey()
                digest.update(f"{found.sha256}{self._of_folders[len(stamps)] or ''}\n".encode())
                stamps.append(f"{digest.hexdigest()}{_COUNTED}{len(stamps) + 1}")
                before = sum(self._sizes)
                self._sizes.append(found.rows)
                yield from ((before + number, path) for number, path in found.sample)

        _, sample = sampled(samples(), FIRST_ROWS, RANDOM_ROWS)
        self._merge()
        size, mtime_ns = self._seen
        return Survey(
            size=size,
            mtime_ns=mtime_ns,
            sha256=stamps[-1] + self._files,
            rows=sum(self._sizes),
            continues=known_sha256 is not None and known_sha256.partition(FILES)[0] in stamps,
            sample=tuple(sorted(one for _, one in sample)),
        )

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The rows after the first `skip`, good and rejected, in the files' order. Skips whole files unread."""
        if skip and not self._sizes:
            self.survey()
        for number, part in enumerate(self._parts):
            size = self._sizes[number] if skip else 0
            if size <= skip and skip:
                skip -= size
                continue
            rows, added = part.rows(skip), self._added(number)
            yield from (row._replace(cells={**added, **(row.cells or {})}) for row in rows) if added else rows
            skip = 0

    def _added(self, number: int) -> dict[str, str | None]:
        """The cells that the folders of a file add to its rows."""
        null = None if self.columns.types else ""
        cells = self._of_folders[number].items()
        return {name: null if cell is None else cell for name, cell in cells if name not in self._held.names}
