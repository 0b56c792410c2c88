"""Turns a CSV of image paths into validated rows. Knows no SQL and no Celery, and opens no image.

`producer.sources.text.text_source` reads the file.
"""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from db.intake import NewRow
from producer.sources.file import HashedContent
from producer.sources.hints import new_file, shell_path
from producer.sources.rows.cells import BadRow
from producer.sources.rows.columns import choose_columns
from producer.sources.rows.rules import RowRules
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions
from producer.sources.text.csv_text import CsvText, filled_rows, find_text
from producer.sources.text.encoding import UTF8
from producer.sources.text.text_source import NoRows, Reader, TextSource, undecoded
from workers.errors import UsageError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader


class CsvSource(TextSource[list[str]]):
    """Rows of a CSV file, with any line ends, below a header."""

    kind = "CSV"
    header = 1
    parsing = csv.Error
    text: CsvText

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(path, options)
        self.text = find_text(self.file, options)
        with self._parsed(HashedContent(self.file)) as reader:
            rows = filled_rows(reader)
            names = next(rows, None)
            if names is not None:
                if any(map(undecoded, names)):
                    raise self._no_text(of_row=False)
                shown = self.file.shown
                self.columns = choose_columns(
                    shown, tuple(names), options.image_column, options.prompt_column, options.box_column
                )
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

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        """Always true: the constructor raises an error for a path that is no CSV."""
        return True

    def advice_on_backslashes(self) -> str:
        advice = super().advice_on_backslashes()
        # In other encodings the byte of a backslash may be a part of a letter.
        if self.text.encoding != UTF8 or self.file.gzipped:
            return advice
        slashes = new_file(os.path.relpath(self.path), "slashes")
        return rf"{advice}: tr '\\' / < {shell_path(str(self.path))} > {slashes}"

    def _reader(self, text: io.TextIOWrapper) -> "CsvReader":
        return self.text.rows(text)

    def _filled(self, reader: Reader[list[str]]) -> Iterator[list[str]]:
        return filled_rows(reader)

    def _checked(self, record: list[str]) -> NewRow:
        return self._rules.row(record)

    def _rejected(self, record: list[str], where: str, bad: BadRow) -> NewRow:
        return self._rules.rejected(record, where, bad)

    @contextmanager
    def _parsed(self, file: io.RawIOBase, *, strict: bool = False) -> Iterator[Reader[list[str]]]:
        try:
            with super()._parsed(file, strict=strict) as reader:
                yield reader
        except csv.Error as error:
            self.file.refuse_change()
            raise self._fault() from error

    def _fault(self) -> UsageError:
        """The error with the line that cannot be parsed. Reads the file again, as the first reading counts no lines."""
        first = 1
        with self.text.open(HashedContent(self.file)) as text:
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
                return UsageError(f"{self.file.shown}:{first}: {fault}")
        return self.file.changed()

    def _refuse_no_rows(self) -> NoReturn:
        raise NoRows(f"{self.file.shown} has no data rows: write one image path a line below the header")
