"""What sources that are text with one row after the other have in common: reading, counting, growth. Knows no format.

It follows `producer.sources.source.RowSource`, which says what raises errors and what rejects a row.
"""

import io
import re
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Generic, NoReturn, Protocol, Self, TypeVar

from db.intake import NewRow
from producer.sources.file import HASH_DIGITS, HashedContent, content_stamp
from producer.sources.file_source import FIRST_ROWS, RANDOM_ROWS, FileSource
from producer.sources.rows.cells import BadRow, quoted
from producer.sources.sampling import sampled
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, Survey
from producer.sources.text.encoding import FileText, advised_encoding
from workers.errors import UsageError

# Rows that are read and held at once; after them the file is checked for changes. Fewer if rows are long: then about
# BYTES_PER_LOOK, by the mean length of a row.
ROWS_PER_LOOK = 1000
BYTES_PER_LOOK = 4 << 20

_UNDECODED = re.compile("[\udc80-\udcff]")  # surrogates that stand for bytes that are no text


class NoRows(UsageError):
    """The file has no row."""


Record = TypeVar("Record", str, list[str])  # a row as it is parsed, before it is checked
Given = TypeVar("Given", covariant=True)


class Reader(Protocol[Given]):
    """Gives the records of a text one after the other, as `csv.reader` does."""

    def __iter__(self) -> Self: ...

    def __next__(self) -> Given: ...

    @property
    def line_num(self) -> int:
        """How many lines were read so far."""


class Lines:
    """The lines of a text, as `Reader` gives them."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self.line_num = text, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.line_num += 1
        return line


class TextSource(FileSource, Generic[Record]):
    """Rows of a file of text.

    A subclass finds `text` and `columns` in its constructor.
    """

    text: FileText
    header = 0  # records before the first row
    parsing: type[Exception] = ValueError  # what the reader raises for a text that it cannot parse

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(path, options)
        self._rows_per_look = ROWS_PER_LOOK

    @abstractmethod
    def _reader(self, text: io.TextIOWrapper) -> Reader[Record]: ...

    @abstractmethod
    def _filled(self, reader: Reader[Record]) -> Iterator[Record]:
        """All records but blank ones."""

    @abstractmethod
    def _checked(self, record: Record) -> NewRow:
        """The row of a record. Raises `BadRow`."""

    @abstractmethod
    def _rejected(self, record: Record, where: str, bad: BadRow) -> NewRow: ...

    @property
    def _stamp(self) -> str:
        """Text added to the hash of the content, since the same content read in another way gives other rows."""
        return self.text.stamp

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Whether the file is as an earlier survey found it and is read in the same way. Does not read its content."""
        how = known_sha256[HASH_DIGITS:]
        same = self.file.is_still(known_size, known_mtime_ns, how.removeprefix(self._stamp))
        return same and how.startswith(self._stamp)

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Read the whole file once: count its rows and hash its content. Raises `UsageError` if it is unusable.

        `known_size` and `known_sha256` are those of an earlier survey.
        """
        # Bytes that are no text make the file unusable, unless the user named the encoding: then their rows are
        # rejected.
        strict = self.text.given.encoding is None
        content = HashedContent(self.file, known_size, self.text.unit_bytes)
        with self._parsed(content, strict=strict) as reader:
            records = self._surveyed(self._records(reader))
            rows, sample = sampled(records, FIRST_ROWS, RANDOM_ROWS)
            picked = [(number, self._row(record, reader)) for number, record in sample]
        self.file.refuse_change()
        if rows < 1:
            self._refuse_no_rows()
        self._rows_per_look = max(1, min(ROWS_PER_LOOK, BYTES_PER_LOOK * rows // content.size))
        known = None if known_sha256 is None else content_stamp(known_sha256)
        whole_row = content.size == known_size or self.text.ends_row(content.edge)
        return Survey(
            size=content.size,
            mtime_ns=self.file.stat.st_mtime_ns,
            sha256=content.hash.hexdigest() + self._stamp + self.file.stamp,
            rows=rows,
            continues=whole_row and f"{content.sha256_at_mark}{self._stamp}" == known,
            sample=tuple((number, row.path) for number, row in picked if row.rejected is None),
        )

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The rows after the first `skip`, good and rejected, in the file's order. Blank lines are no rows."""
        with self._parsed(self.file.open()) as reader:
            records = self._records(reader)
            deque(islice(records, skip), maxlen=0)
            while True:
                batch = [self._row(record, reader) for record in islice(records, self._rows_per_look)]
                self.file.refuse_change()
                if not batch:
                    return
                yield from batch

    def _surveyed(self, records: Iterator[Record]) -> Iterator[Record]:
        """Return the records as they are. A format that must see each record of a survey overrides this."""
        return records

    def _records(self, reader: Reader[Record]) -> Iterator[Record]:
        records = self._filled(reader)
        deque(islice(records, self.header), maxlen=0)
        return records

    def _row(self, record: Record, reader: Reader[Record]) -> NewRow:
        try:
            return self._checked(record)
        except BadRow as bad:
            return self._rejected(record, f"{self.file.name}:{_first_line(record, reader.line_num)}", bad)

    @contextmanager
    def _parsed(self, file: io.RawIOBase, *, strict: bool = False) -> Iterator[Reader[Record]]:
        try:
            with self.file.faults(), self.text.open(file, strict=strict) as text:
                yield self._reader(text)
        except UnicodeError as error:
            self.file.refuse_change()
            raise self._no_text() from error

    def _no_text(self, *, of_row: bool = True) -> UsageError:
        """The error with the line whose bytes are not valid in the encoding, and with another encoding to try."""
        encoding, shown = self.text.encoding.upper(), self.file.shown
        try:
            with self.text.open(HashedContent(self.file)) as text:
                reader = self._reader(text)
                record, bad = next((record, bad) for record in reader if (bad := undecoded(record)))
                part = bad.string[max(0, bad.start() - 40) : bad.end() + 40].strip("\r\n")
                where = f"{shown}:{_first_line(record, reader.line_num)}: {quoted(part)} is not {encoding}"
        except (ValueError, StopIteration, self.parsing):
            return UsageError(f"{shown}: is not valid {encoding}; save it again, or give its --encoding")
        if self.text.mark or self.text.given.encoding:
            return UsageError(f"{where}; correct it")
        advice = advised_encoding(part.encode(errors="surrogateescape"))
        return UsageError(f"{where}; {advice}" + (", --encoding utf-8 rejects only such rows" if of_row else ""))

    def _refuse_no_rows(self) -> NoReturn:
        raise NoRows(f"{self.file.shown} has no rows: write one image a line")


def undecoded(record: str | list[str]) -> re.Match[str] | None:
    """The first bytes of a record that are no text."""
    cells = [record] if isinstance(record, str) else record
    return next((bad for cell in cells if (bad := _UNDECODED.search(cell))), None)


def _first_line(record: str | list[str], last_line: int) -> int:
    """The first line of a record. Cells in quotes may go over several."""
    if isinstance(record, str):
        return last_line
    return last_line - sum(len(re.findall("\r\n|\r|\n", cell)) for cell in record)
