"""A folder of images as rows, in the order of their paths. What is taken is judged in producer/sources/selection.py."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from db.intake import NewRow
from producer.sources.cells import SHORT, BadRow, as_name, check_path, one_line, unreadable
from producer.sources.columns import Columns
from producer.sources.csv_source import Survey
from producer.sources.selection import CIRCLE, UNREADABLE, LeftOut, Selection, Tally, told_left_out
from workers.errors import UsageError
from workers.inference.formats import FORMATS


@dataclass(frozen=True)
class _Level:
    """A folder that the walk is in, and what of it is still to come."""

    identity: tuple[int, int]  # device and inode
    names: Iterator[str]


class FolderManifest:
    """The images in a folder and below it, as rows in the order of their paths. Decodes nothing.

    Everything else is left out and counted by reason, `exclude`, the output folder, too: the `left_out` of the last
    survey. Memory grows with the largest folder.
    """

    columns = Columns(("path",), "path", None)
    confined = False

    def __init__(self, path: Path, *, exclude: Path | None = None, follow_symlinks: bool = False) -> None:
        self._shown = one_line(str(path))
        self.source = self.root = Path(os.path.abspath(path))
        self.follow_symlinks = follow_symlinks
        self.left_out: tuple[LeftOut, ...] = ()
        below = os.path.relpath(os.path.realpath(exclude), os.path.realpath(path)) if exclude else None
        if below == ".":
            raise UsageError(f"{self._shown}: is the output folder too; choose another with -o")
        self._selection = Selection(str(self.root), below, follow_symlinks)
        tally = Tally()
        if all(name.endswith("/") for name in self._walk(tally)):
            there = f"; left out: {told_left_out(tally.left_out)}" if tally.left_out else ""
            formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            raise UsageError(f"{self._shown}: no images in it or below it{there}; give a folder with {formats} files")

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Never certain: a file may have come anywhere below without a trace at the top."""
        return False

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Count the images. A folder never `continues`: new names may come anywhere in its order."""
        count, newest, tally = 0, os.stat(self.root).st_mtime_ns, Tally()
        for name in self._walk(tally):
            if name.endswith("/"):
                with suppress(OSError):  # told by the walk, which looks into it next
                    newest = max(newest, os.stat(self.root / name).st_mtime_ns)
            else:
                count += 1
        self.left_out = tally.left_out
        return Survey(size=count, mtime_ns=newest, sha256=None, rows=count, continues=False)

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The images after the first `skip`; a name that cannot be recorded is a rejected row."""
        images = (name for name in self._walk() if not name.endswith("/"))
        return map(self._row, islice(images, skip, None))

    def _row(self, path: str) -> NewRow:
        if len(path) > SHORT or not path.isprintable():
            try:
                check_path(path)
            except BadRow as bad:
                name = as_name(path)
                return NewRow(name, rejected=(bad.error_class.value, f"{self._shown}/{name}: {bad.fault}"))
        return NewRow(path)

    def _walk(self, tally: Tally | None = None) -> Iterator[str]:
        """Paths below the root: folders, which end with a slash, each before what is in it, and images."""
        levels: list[_Level] = []
        self._open("", levels, tally)
        while levels:
            for name in levels[-1].names:
                yield name
                if name.endswith("/") and self._open(name, levels, tally):
                    break
            else:
                levels.pop()

    def _open(self, folder: str, levels: list[_Level], tally: Tally | None) -> bool:
        """Go down into a folder. False, and counted, if a link leads round in a circle or it may not be read."""
        try:
            found = os.stat(self.root / folder)
            identity = found.st_dev, found.st_ino
            if all(level.identity != identity for level in levels):
                levels.append(_Level(identity, iter(self._selection.taken(folder, tally))))
                return True
            reason = CIRCLE
        except OSError as error:
            # Only what this user may not see is left out: a folder that vanished or a disk that fails may be back.
            if not folder or not isinstance(error, PermissionError):
                shown = os.path.join(self._shown, one_line(folder)).rstrip("/")
                raise UsageError(unreadable(shown, error)) from error
            reason = UNREADABLE
        if tally is not None:
            tally.add(reason, folder)
        return False
