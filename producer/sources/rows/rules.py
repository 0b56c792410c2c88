"""The rules for rows of every kind of input: paths, prompts, other cells, and how many rows make one transaction.

A row that breaks a rule is rejected, with the reason; the other rows are recorded. Knows no files and no SQL.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from db.columns import to_json
from db.intake import NewRow
from db.values import GivenBox
from producer.sources.rows.box_cells import VISUAL, read_boxes
from producer.sources.rows.cells import (
    CONTROL,
    UNSTORABLE,
    BadRow,
    as_name,
    escaped,
    quoted,
    split_prompts,
    storable,
    whole_prompts,
)
from producer.sources.rows.columns import Columns
from workers.errors import ErrorClass
from workers.places import location, urls, web

# The memory of a slice: while it is written, its rows exist several times, as read, as JSON and as parameters.
SLICE_CHARACTERS = 4_000_000
CUT_CHUNK_CHARACTERS = 4 * SLICE_CHARACTERS  # a slice of this size ends even in the middle of a chunk

PATH_BYTES, NAME_BYTES = 2600, 255  # Linux opens paths of up to 4096 bytes, PostgreSQL's index takes up to 2700
SHORT = NAME_BYTES // 4  # a path of so few characters is never too long: UTF-8 has at most 4 bytes for each
NUMBER_CHARACTERS = 8  # about what a cell that is no text takes
_DOUBTFUL = ("", "\\")  # first characters of paths that `check_path` must look at


class RowRules:
    """Makes rows from cells: lists of texts in the order of `columns`, or values by column as JSON has them.

    Blanks around a path are removed.

    Relative paths start from `root`, an absolute folder or a URL. If `confined`, no path may lead out of it; only the
    text of the path is judged. `encoding` names the encoding of the cells in errors. With `needs_prompt` each row needs
    a prompt of its own, or boxes, which alone stand for the prompt `visual`.
    """

    def __init__(
        self, columns: Columns, root: str, *, confined: bool, needs_prompt: bool = False, encoding: str = "utf-8"
    ) -> None:
        self._columns, self._root, self._confined = columns, root, confined
        self._needs_prompt, self._encoding = needs_prompt, encoding
        self._width = len(columns.names)
        self._image = columns.names.index(columns.image)
        self._prompt = None if columns.prompt is None else columns.names.index(columns.prompt)
        self._boxes = None if columns.boxes is None else columns.names.index(columns.boxes)
        self._others = tuple(name for name in columns.names if name != columns.image)

    def row(self, cells: list[str]) -> NewRow:
        """Make the row of these cells; the list may be changed. Raises `BadRow`.

        This runs once for each row, so cheap checks come first, and only doubtful rows are checked closely.
        """
        if len(cells) != self._width:
            raise BadRow(ErrorClass.BAD_ROW, self._column_count(cells))
        clean = "".join(cells).isprintable()  # no control characters, and nothing that is not UTF-8
        if not clean:
            self._check_text(cells)
        given = cells[self._image]
        path = self._path(given, clean=clean)
        boxes = None if self._boxes is None else read_boxes(cells[self._boxes])
        prompts = None if self._prompt is None else split_prompts(cells[self._prompt])
        if prompts is None and self._needs_prompt:
            prompts = self._instead(boxes)
        if path != given:
            return NewRow(path, dict(zip(self._columns.names, cells, strict=True)), prompts, None, boxes)
        if not self._others:
            return NewRow(path, None, prompts)
        del cells[self._image]
        return NewRow(path, dict(zip(self._others, cells, strict=True)), prompts, None, boxes)

    def typed_row(self, cells: dict[str, Any], *, clean: bool) -> NewRow:
        """Make the row of these values; the dictionary may be changed. Raises `BadRow`.

        `clean` says that all texts are known to have no control characters, and nothing that is not UTF-8.
        """
        image = self._columns.image
        given = cells.get(image, "")
        if type(given) is not str:
            raise BadRow(ErrorClass.BAD_PATH, f"the path is {_in_words(given)}; give it as text")
        if not clean:
            self._check_values(cells)
        path = self._path(given, clean=clean)
        boxes = None if self._columns.boxes is None else read_boxes(cells.get(self._columns.boxes))
        prompts = None if self._columns.prompt is None else _typed_prompts(cells.get(self._columns.prompt))
        if prompts is None and self._needs_prompt:
            prompts = self._instead(boxes)
        if path == given:
            del cells[image]
        return NewRow(path, cells or None, prompts, None, boxes)

    def rejected(self, cells: list[str], where: str, bad: BadRow) -> NewRow:
        """Make the rejected row of cells that break a rule. `where` names the row's place, such as `images.csv:7`."""
        return self.rejected_values(dict(zip(self._columns.names, cells, strict=False)), where, bad)

    def rejected_values(self, cells: dict[str, Any], where: str, bad: BadRow) -> NewRow:
        """Make the rejected row of these values."""
        kept = {storable(name): _storable_value(cell) for name, cell in cells.items()}
        given = kept.get(self._columns.image, "")
        if isinstance(given, str) and urls.holds_credential(given):
            given = kept[self._columns.image] = urls.without_credentials(given)
        path = as_name(given if isinstance(given, str) else to_json(given))
        if path == given:
            kept.pop(self._columns.image, None)
        return NewRow(path, kept or None, rejected=(bad.error_class.value, f"{where}: {bad.fault}"))

    def _path(self, given: str, *, clean: bool) -> str:
        path = given.strip()
        if not clean or ":" in path or path[:1] in _DOUBTFUL or len(path) > SHORT:
            check_path(path)
        path = location.normal(path)
        if self._confined and (path[0] in "/." or ":" in path) and location.leaves(self._root, path):
            fault = f"the path leaves the image root {escaped(self._root)}; move the file below it, or choose another"
            raise BadRow(ErrorClass.OUTSIDE_ROOT, f"{fault} --image-root")
        if path[:3] == "../" and urls.is_url(self._root):
            fault = f"the path leads out of {escaped(self._root)} by .., which no bucket is asked for"
            raise BadRow(ErrorClass.BAD_PATH, f"{fault}; write the whole URL of the object")
        return path

    def _column_count(self, cells: list[str]) -> str:
        columns = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
        return f"{columns}, the header has {len(self._columns.names)}"

    def _check_text(self, cells: list[str]) -> None:
        self._check_values(dict(zip(self._columns.names, cells, strict=True)))

    def _check_values(self, cells: dict[str, Any]) -> None:
        for name, cell in cells.items():
            bad = UNSTORABLE.search(cell if isinstance(cell, str) else to_json(cell)) or UNSTORABLE.search(name)
            if bad is None or (name == self._columns.image and bad[0] == "\0"):
                continue  # `check_path` reports a NUL in a path
            if bad[0] == "\0":
                raise BadRow(ErrorClass.BAD_ROW, f"NUL character in column {quoted(name)}; remove it")
            fault = f"column {quoted(name)} is not valid {self._encoding.upper()}; correct the cell"
            raise BadRow(ErrorClass.BAD_ROW, fault)

    def _instead(self, boxes: Sequence[GivenBox] | None) -> tuple[str, ...]:
        """The prompts of a row that has none and needs some."""
        if boxes is None:
            wanted = (("prompt", self._columns.prompt), ("boxes", self._columns.boxes))
            lacks = " and ".join(f"no {what} in column {quoted(name)}" for what, name in wanted if name)
            raise BadRow(ErrorClass.PROMPT, f"{lacks}; write one, or give --prompt")
        if not any(positive for *_, positive in boxes):
            raise BadRow(ErrorClass.BAD_BOX, "only negative boxes and no prompt; add what to look for")
        return (VISUAL,)


def _typed_prompts(cell: Any) -> tuple[str, ...] | None:
    """The prompts of a value: a text as in a CSV, or a list of texts."""
    if isinstance(cell, list) and cell and all(isinstance(prompt, str) for prompt in cell):
        return whole_prompts(cell)
    if cell is not None and cell != [] and not isinstance(cell, str):
        raise BadRow(ErrorClass.PROMPT, f"the prompt is {_in_words(cell)}; give a text, or a list of texts")
    return split_prompts(cell or "")


def _in_words(value: Any) -> str:
    """What a value of JSON is, such as `a list`."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "a text"}
    return names.get(type(value), "a number")


def _storable_value(cell: Any) -> Any:
    if isinstance(cell, str):
        return storable(cell)
    text = to_json(cell)
    return storable(text) if UNSTORABLE.search(text) else cell


def check_path(path: str) -> None:
    """Raise `BadRow` if no image that we read can have this path, whatever is on the disk."""
    if not path or path.isspace():
        fault = "empty path; give the image's path, or remove the row"
    elif not path.isprintable() and (found := CONTROL.search(path)):
        fault = f"the path holds {as_name(found[0])}, which is no text; rename the file or its folder"
    elif ":" in path and (wrong := urls.fault(path) or web.refusal(path)):
        fault = wrong
    elif path.startswith("\\\\"):
        fault = "a network share is no path; mount it and give the path below its mount"
    elif (size := len(encoded := path.encode())) <= NAME_BYTES or (":" in path and urls.is_url(path)):
        return
    elif size > PATH_BYTES:
        fault = f"path of {size} bytes; shorten it to {PATH_BYTES}"
    elif (longest := max(map(len, encoded.split(b"/")))) > NAME_BYTES:
        fault = f"the path holds a name of {longest} bytes; shorten it to {NAME_BYTES}"
    else:
        return
    raise BadRow(ErrorClass.BAD_PATH, fault)


def row_of_file(path: str, folder: str) -> NewRow:
    """Make the row of a file found in a folder; a rejected row if its name cannot be recorded.

    `path` starts from the folder, which `folder` names in errors.
    """
    if len(path) > SHORT or not path.isprintable():
        try:
            check_path(path)
        except BadRow as bad:
            name = as_name(path)
            return NewRow(name, rejected=(bad.error_class.value, f"{folder}/{name}: {bad.fault}"))
    return NewRow(path)


def row_slice(rows: Iterator[NewRow], most: int, chunk_size: int) -> list[NewRow]:
    """Take the next rows of an input, at most `most`; an empty list at its end.

    A slice ends early at about `SLICE_CHARACTERS`. If none of its rows is rejected, it ends with a whole chunk, since a
    part of a chunk would become a chunk of its own. Only a slice that is smaller than one chunk, or has very long rows,
    may end anywhere.
    """
    slice_: list[NewRow] = []
    whole, size = most // chunk_size * chunk_size or most, 0
    for row in rows:
        slice_.append(row)
        size += _characters(row)
        count = len(slice_)
        if count == whole or size >= CUT_CHUNK_CHARACTERS or (size >= SLICE_CHARACTERS and count % chunk_size == 0):
            break
    return slice_


def _characters(row: NewRow) -> int:
    return len(row.path) + (sum(map(_size, row.cells.values())) if row.cells else 0)


def _size(cell: Any) -> int:
    """About how many characters a cell takes: exact for text and lists, enough for numbers."""
    if type(cell) is str:
        return len(cell)
    return len(to_json(cell)) if isinstance(cell, list | dict) else NUMBER_CHARACTERS
