"""Reads the file of --rows: which rows of a run somebody has chosen. Changes nothing."""

from array import array
from collections.abc import Sequence
from pathlib import Path

from db.session import read
from db.views.rows import rows_of_paths
from db.views.run_views import RunView
from producer.cli.found import Found
from producer.sources.rows.cells import storable
from workers.errors import UsageError
from workers.places import location

LONGEST_NUMBER, LONGEST_SHOWN = 18, 200  # digits of a row's number; letters of a line in a message


def chosen_rows(found: Found, view: RunView, file: Path) -> Sequence[int]:
    """The numbers of the chosen rows, in rising order, 8 bytes each.

    A line is the path of an image, as the source has it or absolute, or the number of a row, which JSON Lines and
    Parquet have as `sam3_row` and COCO as the id of an image. A path chooses all of its rows. Raises `UsageError` with
    the first line that names no row, and if the file cannot be read or is empty.
    """
    numbers: set[int] = set()
    paths: dict[str, tuple[int, str]] = {}  # a path as the run may know it -> line number and line
    for place, line in enumerate(_lines(file), start=1):
        if line.isdecimal() and line.isascii():
            if len(line) > LONGEST_NUMBER or not 1 <= int(line) <= view.images:
                none = f"none {line[:LONGEST_SHOWN]}"
                raise UsageError(f"--rows {file}, line {place}: the run has rows from 1 to {view.images}, {none}")
            numbers.add(int(line))
        elif line:
            for spelled in _spellings(line, view.source.root):
                paths.setdefault(spelled, (place, line))
    known = read(found.sessions, rows_of_paths, found.run_id, list(paths))
    missing = set(paths.values()) - {paths[path] for path, _ in known}
    if missing:
        place, line = min(missing)
        raise UsageError(f"--rows {file}, line {place}: the run has no image '{line[:LONGEST_SHOWN]}'")
    numbers.update(row for _, row in known)
    if not numbers:
        raise UsageError(f"--rows {file} names no row: write the path of an image into each line")
    return array("q", sorted(numbers))


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text("utf-8-sig", "surrogateescape").split("\n")
    except OSError as error:
        raise UsageError(f"--rows {file}: {error.strerror}") from None
    return [storable(line.strip("\r")) for line in lines]  # as sources are read: a run has no other paths


def _spellings(line: str, root: str) -> set[str]:
    """The paths by which the run may know the image of a line: as it is, and relative to the root."""
    plain = location.normal(line)
    below = plain.startswith(f"{root.rstrip('/')}/")
    return {plain, plain[len(root.rstrip("/")) + 1 :]} if below else {plain, location.place(root, plain)}
