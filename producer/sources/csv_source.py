"""Turns a CSV of image paths into validated rows. Knows no SQL and no Celery, and opens no image.

It follows `producer.sources.source.RowSource`, which says what raises errors and what rejects a row.
"""

import csv
import io
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from db.intake import NewRow
from producer.sources.cells import BadRow, one_line, quoted, unreadable
from producer.sources.columns import choose_columns
from producer.sources.csv_text import UTF8, advised_encoding, filled_rows, find_text
from producer.sources.hints import new_file, shell_path
from producer.sources.rows import RowRules
from producer.sources.sampling import sampled
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RowSource, Survey, require_prompts
from workers.errors import UsageError

if TYPE_CHECKING:
    from _csv import Reader

    from _typeshed import WriteableBuffer

LINE_BYTES = 1 << 24  # a longer line is refused, as it would be held in memory as a whole
FIRST_ROWS, RANDOM_ROWS = 100, 100  # rows in the sample of a survey
# Rows that are read and held at once; after them the file is checked for changes. Fewer if rows are long: then about
# BYTES_PER_LOOK, by the mean length of a row.
ROWS_PER_LOOK = 1000
BYTES_PER_LOOK = 4 << 20

_HASH_DIGITS = 64  # of a SHA-256; the text after them says how the bytes were read, see `CsvText.stamp`
_UNDECODED = re.compile("[\udc80-\udcff]")  # surrogates that stand for bytes that are no text


class _HashedFile(io.FileIO):
    """A file that hashes its bytes as they are read; `sha256_at_mark` is the hash of its first `mark` bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.hash = sha256()
        self.mark = 0
        self.sha256_at_mark: str | None = None
        self._read = 0
        self._line = 0

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        count = super().readinto(buffer) or 0
        block = memoryview(buffer).cast("B")[:count]
        self._line = 0 if re.search(rb"[\r\n]", block) else self._line + count
        if self._line > LINE_BYTES:
            size = f"a line of more than {LINE_BYTES >> 20} MiB"
            raise UsageError(f"{one_line(str(self.name))}: {size}; give a CSV with one image a line")
        before_mark = self.mark - self._read
        if 0 < before_mark <= count:
            self.hash.update(block[:before_mark])
            self.sha256_at_mark = self.hash.hexdigest()
            block = block[before_mark:]
        self.hash.update(block)
        self._read += count
        return count


_File = TypeVar("_File", bound=io.FileIO)
_IDENTITY = ("st_dev", "st_ino", "st_size", "st_mtime_ns")


class CsvSource(RowSource):
    """Rows of a CSV file, with any line ends. Relative paths start at `options.root`, else at the CSV's folder.

    `producer.sources.csv_text` decodes its bytes.
    """

    kind = "CSV"

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        require_prompts(options)
        self._shown = one_line(str(path))
        self._name = one_line(path.name)
        self.path = Path(os.path.abspath(path))
        self.confined = options.root is not None
        self.root = Path(os.path.abspath(options.root)) if options.root else self.path.parent
        self.follow_symlinks = options.follow_symlinks
        self._stat = _stat_csv(path, self._shown)
        with self._open(io.FileIO) as file:
            self.text = find_text(file, self._shown, options)
        with self._parsed(self._open(io.FileIO)) as reader:
            rows = filled_rows(reader)
            names = next(rows, None)
            if names is not None:
                if any(map(_UNDECODED.search, names)):
                    raise self._no_text(of_row=False)
                self.columns = choose_columns(self._shown, tuple(names), options.image_column, options.prompt_column)
            if next(rows, None) is None:
                self._refuse_no_rows()
        self.told = self.text.told
        self._rules = RowRules(
            self.columns,
            self.root,
            confined=self.confined,
            needs_prompt=options.needs_prompt,
            encoding=self.text.encoding,
        )
        self._rows_per_look = ROWS_PER_LOOK

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Always true: the constructor raises an error for a path that is no CSV."""
        return True

    def advice_on_backslashes(self) -> str:
        advice = super().advice_on_backslashes()
        if self.text.encoding != UTF8:  # in other encodings the byte of a backslash may be a part of a letter
            return advice
        slashes = new_file(os.path.relpath(self.path), "slashes")
        return rf"{advice}: tr '\\' / < {shell_path(str(self.path))} > {slashes}"

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Whether the file is as an earlier survey found it and is read in the same way. Does not read its content."""
        found = self._stat.st_size, self._stat.st_mtime_ns, self.text.stamp
        return found == (known_size, known_mtime_ns, known_sha256[_HASH_DIGITS:])

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Read the whole file once: count its rows and hash it. Raises `UsageError` if it is no CSV.

        `known_size` and `known_sha256` are those of an earlier survey.
        """
        # Bytes that are no text make the file unusable, unless the user named the encoding: then their rows are
        # rejected.
        strict = self.text.given.encoding is None
        file = self._open(_HashedFile)
        file.mark = known_size
        with self._parsed(file, strict=strict) as reader:
            data = filled_rows(reader)
            next(data, None)
            rows, sample = sampled(data, FIRST_ROWS, RANDOM_ROWS)
            picked = [(number, self._row(cells, reader)) for number, cells in sample]
            unit = self.text.unit_bytes
            edge = os.pread(file.fileno(), 2 * unit, max(known_size - unit, 0))
        self._refuse_changed()
        if rows < 1:
            self._refuse_no_rows()
        self._rows_per_look = max(1, min(ROWS_PER_LOOK, BYTES_PER_LOOK * rows // self._stat.st_size))
        whole_row = self._stat.st_size == known_size or self.text.ends_row(edge)
        return Survey(
            size=self._stat.st_size,
            mtime_ns=self._stat.st_mtime_ns,
            sha256=file.hash.hexdigest() + self.text.stamp,
            rows=rows,
            continues=whole_row and f"{file.sha256_at_mark}{self.text.stamp}" == known_sha256,
            sample=tuple((number, row.path) for number, row in picked if row.rejected is None),
        )

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The rows after the first `skip`, good and rejected, in the file's order. Blank lines are no rows."""
        with self._parsed(self._open(io.FileIO)) as reader:
            rows = filled_rows(reader)
            deque(islice(rows, 1 + skip), maxlen=0)
            while True:
                batch = [self._row(cells, reader) for cells in islice(rows, self._rows_per_look)]
                self._refuse_changed()
                if not batch:
                    return
                yield from batch

    def _row(self, cells: list[str], reader: "Reader") -> NewRow:
        try:
            return self._rules.row(cells)
        except BadRow as bad:
            return self._rules.rejected(cells, f"{self._name}:{_first_line(cells, reader.line_num)}", bad)

    @contextmanager
    def _parsed(self, file: io.FileIO, *, strict: bool = False) -> Iterator["Reader"]:
        try:
            with self.text.open(file, strict=strict) as text:
                yield self.text.rows(text)
        except UnicodeError as error:
            self._refuse_changed()
            raise self._no_text() from error
        except csv.Error as error:
            self._refuse_changed()
            raise self._fault() from error
        except OSError as error:
            self._refuse_changed()
            raise UsageError(f"{self._shown}: cannot be read: {error.strerror}; check its disk") from error

    def _fault(self) -> UsageError:
        """The error with the line that cannot be parsed. Reads the file again, as the first reading counts no lines."""
        first = 1
        with self.text.open(self._open(io.FileIO)) as text:
            reader = self.text.rows(text)
            try:
                for _ in reader:
                    first = reader.line_num + 1
            except csv.Error as error:
                if str(error).startswith("field larger") and reader.line_num == first:
                    fault = f"cell longer than {csv.field_size_limit()} characters; shorten it or remove its column"
                elif "expected after" in str(error):
                    fault = 'text after a closing quote; write a quote inside a cell as ""'
                else:
                    fault = 'quote opened and never closed; close it, or write a quote inside a cell as ""'
                return UsageError(f"{self._shown}:{first}: {fault}")
        return self._changed()

    def _no_text(self, *, of_row: bool = True) -> UsageError:
        """The error with the line whose bytes are not valid in the encoding, and with another encoding to try."""
        encoding = self.text.encoding.upper()
        try:
            with self.text.open(self._open(io.FileIO)) as text:
                reader = self.text.rows(text)
                found = ((cells, bad) for cells in reader for cell in cells if (bad := _UNDECODED.search(cell)))
                cells, bad = next(found)
                part = bad.string[max(0, bad.start() - 40) : bad.end() + 40]
                where = f"{self._shown}:{_first_line(cells, reader.line_num)}: {quoted(part)} is not {encoding}"
        except (UnicodeError, csv.Error, StopIteration):
            return UsageError(f"{self._shown}: is not valid {encoding}; save it again, or give its --encoding")
        if self.text.mark or self.text.given.encoding:
            return UsageError(f"{where}; correct it")
        advice = advised_encoding(part.encode(errors="surrogateescape"))
        return UsageError(f"{where}; {advice}" + (", --encoding utf-8 rejects only such rows" if of_row else ""))

    def _open(self, kind: type[_File]) -> _File:
        try:
            return kind(self.path)
        except FileNotFoundError as error:
            raise self._changed() from error
        except OSError as error:
            raise UsageError(unreadable(self._shown, error)) from error

    def _refuse_changed(self) -> None:
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise self._changed() from error
        if any(getattr(now, key) != getattr(self._stat, key) for key in _IDENTITY):
            raise self._changed()

    def _changed(self) -> UsageError:
        return UsageError(f"{self._shown} changed while it was read; run the same command again")

    def _refuse_no_rows(self) -> NoReturn:
        raise UsageError(f"{self._shown} has no data rows: write one image path a line below the header")


def _stat_csv(path: Path, shown: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except OSError as error:
        raise UsageError(unreadable(shown, error)) from error
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{shown}: is a folder; give a CSV file")
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{shown}: is no regular file, and a CSV is read twice; save it to a file first")
    return found


def _first_line(cells: list[str], last_line: int) -> int:
    return last_line - sum(len(re.findall("\r\n|\r|\n", cell)) for cell in cells)
