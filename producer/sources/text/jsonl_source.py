"""Turns JSON Lines, one object a line, into rows whose cells keep their types. Knows no SQL, and opens no image.

`producer.sources.text.text_source` reads the file. The format: https://jsonlines.org.
"""

import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from db.intake import NewRow
from producer.sources.file import HashedContent
from producer.sources.first_bytes import FirstBytes
from producer.sources.hints import new_file
from producer.sources.rows.cells import BadRow, quoted
from producer.sources.rows.columns import TEXT, choose_columns
from producer.sources.rows.rules import RowRules
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions
from producer.sources.text.encoding import advised, find_encoding
from producer.sources.text.text_source import Lines, Reader, TextSource
from workers.errors import ErrorClass, UsageError

SUFFIXES = (".jsonl", ".ndjson", ".json")  # of names; other files are known by their first characters
_BEGIN = re.compile(r'\s*(\{\s*["}]|\[\s*[{\["])')  # of an object, or of an array; paths may begin with a bracket
FIRST_OBJECTS = 100  # whose names are looked at for that of the image's path
COLUMNS_AT_MOST = 1000  # names of all objects together: if there are more, they are no names but values
SHAPES_AT_MOST = 1000  # that are remembered, so that most objects are not looked at closely
LONG_NUMBER = re.compile(r"\d{19}")  # is found in every whole number that needs more than 64 bits
WHOLE = range(-(1 << 63), 1 << 63)
JSON = "json"  # type of columns with values of several types, and for lists and objects
_TYPES: dict[type, str] = {bool: "bool", int: "int64", float: "double", str: TEXT, type(None): ""}
# Like `json.loads`, but without its search for blanks, which takes a third of the time.
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_TO_LINES = 'python3 -c "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"'


class JsonLinesSource(TextSource[str]):
    """Rows of a file with one JSON object a line. The names in all objects together are the columns."""

    kind = "JSON Lines file"
    types: dict[str, str]  # name -> type of its values, empty if it has none; of the first objects until a survey

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(path, options)
        if options.delimiter:
            raise UsageError(f"{self.file.shown}: is a {self.kind}, and --delimiter is for a CSV")
        self.text, head = find_encoding(self.file, options, self.kind)
        if head.lstrip()[:1] == "[":
            self._refuse_array()
        with self._parsed(HashedContent(self.file)) as reader:
            first = list(islice(self._filled(reader), FIRST_OBJECTS))
        if not first:
            self._refuse_no_rows()
        types = Types(self.file.shown)
        for line in first:
            types.note(line)
        if not types.found:
            raise UsageError(f"{self.file.shown}:1: {_fault(first[0])}")
        self._choose(types.found, options)
        # Later names must not change which column has the paths.
        self._options = replace(options, image_column=self.columns.image)
        kind = "" if self.file.plain_name.endswith(SUFFIXES) else "as JSON Lines"
        self.told = " ".join(filter(None, (self.text.told, kind)))

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        """Whether its name says so, or its first characters, unless its name is that of a CSV."""
        first = FirstBytes(path)
        if first.name.endswith(SUFFIXES):
            return True
        return not first.name.endswith((".csv", ".tsv")) and _BEGIN.match(first.text) is not None

    def _choose(self, types: dict[str, str], options: ReadOptions) -> None:
        shown, self.types = self.file.shown, dict(types)
        columns = choose_columns(shown, tuple(types), options.image_column, options.prompt_column, options.box_column)
        self.columns = replace(columns, types=column_types(types, columns.image))
        self._rules = RowRules(self.columns, self.root, confined=self.confined, needs_prompt=options.needs_prompt)

    @property
    def _stamp(self) -> str:
        return f" jsonl{self.text.stamp}"

    def _reader(self, text: io.TextIOWrapper) -> Reader[str]:
        return Lines(text)

    def _filled(self, reader: Reader[str]) -> Iterator[str]:
        return (stripped for line in reader if (stripped := line.strip()))

    def _surveyed(self, records: Iterator[str]) -> Iterator[str]:
        types = Types(self.file.shown)
        for line in records:
            types.note(line)
            yield line
        self._choose(types.found, self._options)

    def _checked(self, record: str) -> NewRow:
        found = _object(record)
        if found is None:
            raise BadRow(ErrorClass.BAD_ROW, _fault(record))
        # A text with a character that is not printable has either it or a backslash in the line.
        return self._rules.typed_row(found, clean="\\" not in record and record.isprintable())

    def _rejected(self, record: str, where: str, bad: BadRow) -> NewRow:
        found = _object(record)
        cells = {self.columns.image: record} if found is None else found
        return self._rules.rejected_values(cells, where, bad)

    def _refuse_array(self) -> NoReturn:
        shown = self.file.shown
        read = (
            f"gunzip < {shlex.quote(shown)} | {_TO_LINES}"
            if self.file.gzipped
            else f"{_TO_LINES} < {shlex.quote(shown)}"
        )
        lines = new_file(shown, "lines", ".jsonl")
        advice = advised(self.file, f"write one object a line: {read} > {lines}")
        raise UsageError(f"{shown}: is one JSON array; {advice}")


class Types:
    """Notes the names in objects and the types of their values: `found` has them in the order of their appearance.

    The type of a name is empty while all its values are null.
    """

    def __init__(self, shown: str) -> None:
        self.found: dict[str, str] = {}
        self._shown = shown
        self._shapes: dict[tuple[Any, ...], bool] = {}  # (names, types) that were noted -> whether it has whole numbers

    def note(self, line: str) -> None:
        """Note the object of a line; a line that is none is ignored. Raises `UsageError` for too many names."""
        row = _object(line)
        if row is None:
            return
        types = tuple(map(type, row.values()))
        shape = tuple(row), types
        has_whole = self._shapes.get(shape)
        if has_whole is False or (has_whole and not LONG_NUMBER.search(line)):
            return
        if len(self._shapes) == SHAPES_AT_MOST:
            self._shapes.clear()
        self._shapes[shape] = int in types
        types = tuple(map(_type_of, row.values()))
        for name, found in zip(row, types, strict=True):
            self.found[name] = _common(self.found.get(name, ""), _TYPES.get(found, JSON))
        if len(self.found) > COLUMNS_AT_MOST:
            fault = f"its objects have more than {COLUMNS_AT_MOST:,} names; give each the same names"
            raise UsageError(f"{self._shown}: {fault}")


def common_types(types: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The names and types of several files together, each as `Types.found` has them."""
    together: dict[str, str] = {}
    for found in types:
        for name, type_ in found.items():
            together[name] = _common(together.get(name, ""), type_)
    return together


def column_types(types: Mapping[str, str], image: str) -> dict[str, str]:
    """The types of columns that have these values. The path is text also if some rows have none."""
    return {name: found or TEXT for name, found in types.items()} | {image: TEXT}


def _type_of(value: Any) -> type:
    return object if type(value) is int and value not in WHOLE else type(value)


def _common(one: str, other: str) -> str:
    """The type of a column that has values of both types."""
    if not one or not other or one == other:
        return one or other
    return "double" if {one, other} == {"int64", "double"} else JSON


def _object(line: str) -> dict[str, Any] | None:
    try:
        found, end = _scan(line, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    if type(found) is not dict or end != len(line):
        return None
    # In what most writers write a colon stands right behind each name, and nowhere else behind a quote: then no closer
    # look is needed.
    doubtful = line.count('":') != len(found) or '" :' in line
    return None if doubtful and _repeated(line) else found


def _repeated(line: str) -> str | None:
    """A name that the object of the line has twice: then no value is surely the one that is meant."""
    outermost: list[tuple[str, Any]] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # the outermost object comes last
        return dict(pairs)

    json.loads(line, object_pairs_hook=note)
    return next((name for name, count in Counter(name for name, _ in outermost).items() if count > 1), None)


def _fault(line: str) -> str:
    """Why a line is no row."""
    try:
        if isinstance(json.loads(line), dict) and (name := _repeated(line)):
            return f"the name {quoted(name)} is there twice; remove one"
    except json.JSONDecodeError as error:
        near = quoted(line[max(0, error.pos - 10) : error.pos + 10].strip())
        return f"no JSON object: {error.msg} at character {error.colno}, near {near}"
    except (ValueError, RecursionError):
        return "no JSON object that can be read: too deeply nested, or a number of thousands of digits"
    return 'no JSON object; write an object such as {"path": "a.jpg"}'
