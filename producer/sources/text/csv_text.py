"""Finds how to read the text of a CSV: its delimiter, and Excel's line `sep=;`. Knows no rows.

The delimiter is found in the header, or given. `producer.sources.text.encoding` finds the encoding.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from producer.sources.file import SourceFile
from producer.sources.rows.cells import quoted
from producer.sources.rows.columns import may_hold_images
from producer.sources.source import ReadOptions
from producer.sources.text.encoding import UTF8, FileText, find_encoding
from workers.errors import UsageError

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}  # tried in this order
_SEP_LINE = re.compile(r'"?sep=([^\r\n])"?(?:\r\n|\r|\n)', re.IGNORECASE)
_SPELLED = {"tab": "\t", r"\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " "}


@dataclass(frozen=True)
class CsvText(FileText):
    """How to read one CSV."""

    delimiter: str
    preface: bool  # the first line is Excel's `sep=;`, which is no row

    @property
    def told(self) -> str:
        """How the file is read, such as `as UTF-16 with tabs between its cells`; empty if that is the usual way, or
        the way that the user asked for."""
        parts = [super().told] if super().told else []
        if self.given.delimiter is None and self.delimiter != ",":
            parts.append(f"with {DELIMITERS.get(self.delimiter, quoted(self.delimiter))} between its cells")
        return " ".join(parts)

    @property
    def stamp(self) -> str:
        usual = self.encoding == UTF8 and self.delimiter == ","
        return "" if usual else f" {self.encoding} {quoted(self.delimiter)}"

    def rows(self, text: io.TextIOWrapper) -> "Reader":
        """All rows of this text, also blank ones. Raises the errors of `csv.reader` and of the codec."""
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        if self.preface:
            next(reader)
        return reader


def find_text(file: SourceFile, given: ReadOptions) -> CsvText:
    """Find how to read a file from its first bytes. Raises `UsageError`, with what to do, if it is no CSV text."""
    delimiter = _delimiter(given.delimiter)
    found, text = find_encoding(file, given, "CSV")
    said = _SEP_LINE.match(text)
    delimiter = delimiter or (said[1] if said else None) or found_delimiter(text, given.image_column)
    return CsvText(found.mark, found.encoding, given, delimiter, said is not None)


def filled_rows(reader: Iterable[list[str]]) -> Iterator[list[str]]:
    """The header and the rows, without lines that are blank or have only delimiters."""
    for cells in reader:
        if cells and (cells[0].strip() or any(map(str.strip, cells))):
            yield cells


def _delimiter(given: str | None) -> str | None:
    if given is None:
        return None
    delimiter = _SPELLED.get(given.lower(), given)
    if len(delimiter) != 1 or delimiter in '\r\n"\0':
        raise UsageError(f"--delimiter {quoted(given)}: give one character, such as ';', or tab")
    return delimiter


def found_delimiter(text: str, image_column: str | None) -> str:
    """The delimiter with which the header has a column of paths, else the one that gives the most columns."""
    headers = {delimiter: names for delimiter in DELIMITERS if (names := header_by(text, delimiter))}
    for delimiter, names in headers.items():
        if may_hold_images(names, image_column):
            return delimiter
    return max(headers, key=lambda delimiter: len(headers[delimiter]), default=",")


def header_by(text: str, delimiter: str) -> list[str]:
    """The cells of the first line of a text, if its delimiter is this one; empty if they cannot be parsed."""
    try:
        return next(filled_rows(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)), [])
    except csv.Error:  # reported when the rows are read
        return []
