"""A folder of images as rows, in the order of their paths. What is taken is judged in producer/sources/selection.py."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from db.intake import KnownRun, NewRow
from producer.sources.cells import one_line, unreadable
from producer.sources.columns import Columns
from producer.sources.looking import same_files
from producer.sources.rows import row_of_file
from producer.sources.selection import CIRCLE, UNREADABLE, Selection, Tally, told_left_out
from producer.sources.source import AS_FOUND, Reading, RecordedRow, RowSource, Survey
from workers.errors import UsageError
from workers.inference.formats import FORMATS


@dataclass(frozen=True)
class _Level:
    """A folder that the walk is in, and what of it is still to come."""

    identity: tuple[int, int]  # device and inode
    names: Iterator[str]


class FolderSource(RowSource):
    """The images in a folder and below it, as rows in the order of their paths. Decodes nothing.

    Everything else is left out and counted by reason, `reading.exclude`, the output folder, too: the `left_out` of the
    last survey. Memory grows with the largest folder.
    """

    kind = "folder"
    files_seen = True
    columns = Columns(("path",), "path", None)
    confined = False

    def __init__(self, path: Path, reading: Reading = AS_FOUND) -> None:
        self._shown = one_line(str(path))
        self.path = self.root = Path(os.path.abspath(path))
        self.follow_symlinks = reading.follow_symlinks
        self._refuse_flags_of_files(reading)
        exclude = reading.exclude
        below = os.path.relpath(os.path.realpath(exclude), os.path.realpath(path)) if exclude else None
        if below == ".":
            raise UsageError(f"{self._shown}: is the output folder too; choose another with -o")
        self._selection = Selection(str(self.root), below, reading.follow_symlinks)
        tally = Tally()
        if all(name.endswith("/") for name in self._walk(tally)):
            there = f"; left out: {told_left_out(tally.left_out)}" if tally.left_out else ""
            formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            raise UsageError(f"{self._shown}: no images in it or below it{there}; give a folder with {formats} files")

    @classmethod
    def takes(cls, path: Path) -> bool:
        return path.is_dir()

    @property
    def named_columns(self) -> dict[str, str]:
        return {}

    def _refuse_flags_of_files(self, reading: Reading) -> None:
        given = (reading.prompt_column, reading.image_column, reading.root, reading.encoding, reading.delimiter)
        if any(given):
            of_csv = "--prompt-column, --image-column and --image-root are for CSV files, as are --encoding and"
            raise UsageError(f"{self._shown} is a folder: {of_csv} --delimiter")
        if reading.needs_prompt:
            raise UsageError("nothing to look for: give --prompt TEXT")

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
        return (row_of_file(name, self._shown) for name in islice(images, skip, None))

    def holds(self, known: KnownRun, recorded: Sequence[RecordedRow]) -> bool:
        """The same files, by path and size."""
        return same_files(recorded, str(self.root))

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
