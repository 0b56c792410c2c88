"""Turns a folder of images, or those that match a pattern, into rows, in the order of their paths. Decodes nothing.

`producer.sources.selection` decides which files are images.
"""

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
from producer.sources.pattern import Pattern, fixed_folder, is_pattern
from producer.sources.rows import row_of_file
from producer.sources.selection import CIRCLE, UNREADABLE, Selection, Tally, told_left_out
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RecordedRow, RowSource, Survey
from workers.errors import UsageError
from workers.inference.formats import FORMATS


@dataclass(frozen=True)
class _Level:
    """A folder that the walk has entered and not left yet."""

    identity: tuple[int, int]  # device and inode
    names: Iterator[str]  # entries that the walk has not visited yet


class FolderSource(RowSource):
    """The images in a folder and below it, as rows in the order of their paths.

    Other files are left out, also those in the output folder `options.exclude`; `left_out` counts them by reason after
    each survey. Memory grows with the number of entries of the largest single folder.
    """

    kind = "folder"
    empty = "no images in it or below it"
    files_seen = True
    columns = Columns(("path",), "path", None)
    confined = False

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        self._shown = one_line(str(path))
        self.path = Path(os.path.abspath(path))
        self.root, pattern = self._found_below()
        self.follow_symlinks = options.follow_symlinks
        self._refuse_flags_of_files(options)
        exclude = options.exclude
        below = os.path.relpath(os.path.realpath(exclude), os.path.realpath(self.root)) if exclude else None
        if below == ".":
            raise UsageError(f"{self._shown}: is the output folder too; choose another with -o")
        self._selection = Selection(str(self.root), below, options.follow_symlinks, pattern)
        tally = Tally()
        if all(name.endswith("/") for name in self._walk(tally)):
            there = f"; left out: {told_left_out(tally.left_out)}" if tally.left_out else ""
            raise UsageError(f"{self._shown}: {self.empty}{there}; {self._advice_if_empty()}")

    def _found_below(self) -> tuple[Path, Pattern | None]:
        """The folder that is walked, and which files of it are meant."""
        return self.path, None

    def _advice_if_empty(self) -> str:
        return f"give a folder with {', '.join(FORMATS[:-1])} or {FORMATS[-1]} files"

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        return path.is_dir()

    @property
    def named_columns(self) -> dict[str, str]:
        return {}

    def _refuse_flags_of_files(self, options: ReadOptions) -> None:
        given = (options.prompt_column, options.image_column, options.root, options.encoding, options.delimiter)
        if any(given):
            of_csv = "--prompt-column, --image-column and --image-root are for CSV files, as are --encoding and"
            raise UsageError(f"{self._shown} is a {self.kind}: {of_csv} --delimiter")
        if options.needs_prompt:
            raise UsageError("nothing to look for: give --prompt TEXT")

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Always false: a new file below a subfolder does not change the size or time of the folder itself."""
        return False

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Count the images. `continues` is always false: a new file may come anywhere in the order of the paths."""
        count, newest, tally = 0, os.stat(self.root).st_mtime_ns, Tally()
        for name in self._walk(tally):
            if name.endswith("/"):
                with suppress(OSError):  # the walk opens this folder next and reports the error
                    newest = max(newest, os.stat(self.root / name).st_mtime_ns)
            else:
                count += 1
        self.left_out = tally.left_out
        return Survey(size=count, mtime_ns=newest, sha256=None, rows=count, continues=False)

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The images after the first `skip`; a name that cannot be recorded becomes a rejected row."""
        images = (name for name in self._walk() if not name.endswith("/"))
        return (row_of_file(name, self._shown) for name in islice(images, skip, None))

    def holds(self, known: KnownRun, recorded: Sequence[RecordedRow]) -> bool:
        """Whether the recorded rows are files of this folder, by path and size."""
        return same_files(recorded, str(self.root))

    def _walk(self, tally: Tally | None = None) -> Iterator[str]:
        """Paths below the root of folders, which end with a slash, and of images; a folder comes before its content."""
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
        """Enter a folder. False if links lead to it in a circle, or it may not be read; `tally` counts it then."""
        try:
            found = os.stat(self.root / folder)
            identity = found.st_dev, found.st_ino
            if all(level.identity != identity for level in levels):
                levels.append(_Level(identity, iter(self._selection.taken(folder, tally))))
                return True
            reason = CIRCLE
        except OSError as error:
            # Only a folder that this user may not read is left out. Other errors end the command, as the same folder
            # may be readable at the next try: it vanished, or its disk failed.
            if not folder or not isinstance(error, PermissionError):
                shown = os.path.join(self._shown, one_line(folder)).rstrip("/")
                raise UsageError(unreadable(shown, error)) from error
            reason = UNREADABLE
        if tally is not None:
            tally.add(reason, folder)
        return False


class PatternSource(FolderSource):
    """The images whose paths match a pattern, such as `photos/**/*.jpg`, as rows in the order of their paths.

    A pattern matches files, not folders. Of the files that match, `left_out` counts those that are no images.
    """

    kind = "pattern"
    empty = "matches no images"

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        return is_pattern(path)

    def _found_below(self) -> tuple[Path, Pattern | None]:
        return fixed_folder(self.path), Pattern(self.path)

    def _advice_if_empty(self) -> str:
        return "* stands for a part of one name, ** for any number of folders"
