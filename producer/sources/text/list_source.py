"""Turns a plain list of image paths, one a line, into rows. Knows no SQL and no Celery, and opens no image.

`producer.sources.text.text_source` reads the file.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from db.intake import NewRow
from producer.layout import STDIN_SUFFIX
from producer.sources.file import HashedContent
from producer.sources.first_bytes import FirstBytes
from producer.sources.rows.cells import BadRow
from producer.sources.rows.columns import PATHS_ALONE, may_hold_images
from producer.sources.rows.rules import RowRules
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions
from producer.sources.text.csv_text import DELIMITERS, header_by
from producer.sources.text.encoding import find_encoding
from producer.sources.text.text_source import Lines, NoRows, Reader, TextSource

SUFFIXES = (".txt", ".list", ".lst", STDIN_SUFFIX)


class ListSource(TextSource[str]):
    """Rows of a file with one path a line, and no header."""

    kind = "list"
    columns = PATHS_ALONE

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(path, options)
        self.text, _ = find_encoding(self.file, options, self.kind)
        with self._parsed(HashedContent(self.file)) as reader:
            if next(self._filled(reader), None) is None:
                self._refuse_no_rows()
        self.told = self.text.told
        self._rules = RowRules(self.columns, self.root, confined=self.confined, encoding=self.text.encoding)

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        """Whether its name is that of a list, and its first line names no columns."""
        if options.image_column or options.prompt_column or options.box_column or options.delimiter:
            return False
        first = FirstBytes(path)
        if not first.name.endswith(SUFFIXES):
            return False
        return not any(may_hold_images(header_by(first.text, delimiter), None) for delimiter in DELIMITERS)

    @property
    def _stamp(self) -> str:
        return f" list{self.text.stamp}"

    def _reader(self, text: io.TextIOWrapper) -> Reader[str]:
        return Lines(text)

    def _filled(self, reader: Reader[str]) -> Iterator[str]:
        return (line for line in reader if line and not line.isspace())

    def _checked(self, record: str) -> NewRow:
        return self._rules.row([record.rstrip("\r\n")])

    def _rejected(self, record: str, where: str, bad: BadRow) -> NewRow:
        return self._rules.rejected([record.rstrip("\r\n")], where, bad)

    def _refuse_no_rows(self) -> NoReturn:
        raise NoRows(f"{self.file.shown} has no rows: write one image path a line")
