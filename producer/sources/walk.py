"""Walks a folder and the folders below it, in the order of the paths. Opens no file, and knows no kind of input.

`producer.sources.selection` decides which files are taken.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from producer.sources.hints import shell_path
from producer.sources.pattern import Pattern, fixed_folder, is_pattern
from producer.sources.rows.cells import escaped, unreadable
from producer.sources.selection import CIRCLE, IMAGE, UNREADABLE, Selection, Tally
from producer.sources.source import ReadOptions
from workers.errors import UsageError

DELTA = "_delta_log"  # in the folder of a Delta table, https://github.com/delta-io/delta/blob/master/PROTOCOL.md


@dataclass(frozen=True)
class _Level:
    """A folder that the walk has entered and not left yet."""

    identity: tuple[int, int]  # device and inode
    names: Iterator[str]  # entries that the walk has not visited yet


class Walk:
    """The files that a selection takes. `shown` names its top folder in errors.

    Memory grows with the number of entries of the largest single folder.
    """

    def __init__(self, shown: str, selection: Selection) -> None:
        self._shown, self.selection = shown, selection

    @property
    def folder(self) -> Path:
        """The folder that is walked."""
        return Path(self.selection.top)

    def paths(self, tally: Tally | None = None) -> Iterator[str]:
        """Paths below the top of folders, which end with a slash, and of files; a folder comes before its content."""
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
            found = os.stat(self.selection.top + folder)
            identity = found.st_dev, found.st_ino
            if all(level.identity != identity for level in levels):
                levels.append(_Level(identity, iter(self.selection.taken(folder, tally))))
                return True
            reason = CIRCLE
        except OSError as error:
            # Only a folder that this user may not read is left out. Other errors end the command, as the same folder
            # may be readable at the next try: it vanished, or its disk failed.
            if not folder or not isinstance(error, PermissionError):
                shown = os.path.join(self._shown, escaped(folder)).rstrip("/")
                raise UsageError(unreadable(shown, error)) from error
            reason = UNREADABLE
        if tally is not None:
            tally.add(reason, folder)
        return False


def walk_below(path: Path, options: ReadOptions, wanted: Sequence[str] = (IMAGE,)) -> Walk:
    """Walk the folder or the pattern `path`, without the output folder. Raises `UsageError` if it is that folder.

    `wanted` are the verdicts of the files that are taken.
    """
    whole = Path(os.path.abspath(path))
    folder, pattern = (fixed_folder(whole), Pattern(whole)) if is_pattern(path) else (whole, None)
    shown, exclude = escaped(str(path)), options.exclude
    below = os.path.relpath(os.path.realpath(exclude), os.path.realpath(folder)) if exclude else None
    if below == ".":
        raise UsageError(f"{shown}: is the output folder too; choose another with -o")
    return Walk(shown, Selection(str(folder), below, options.follow_symlinks, pattern, wanted))


def delta(shown: str) -> UsageError:
    """The error for the folder of a Delta table."""
    fault = "is a Delta table, whose folder may hold rows that were deleted"
    return UsageError(f"{escaped(shown)}: {fault}; write its rows as Parquet files to another folder")


def mixture(path: Path, folder: Path, image: str, parquet: str) -> UsageError:
    """The error for a source with images and Parquet files, of which `image` and `parquet`, below `folder`, are two."""
    there = f"{escaped(str(path))}: holds images ({escaped(image)}) and Parquet files ({escaped(parquet)})"
    suffixes = os.path.splitext(image)[1], os.path.splitext(parquet)[1]
    if not all(suffixes):
        return UsageError(f"{there}; move the ones to a folder of their own")
    images, rows = (shell_path(str(folder / "**" / f"*{suffix}")) for suffix in suffixes)
    return UsageError(f"{there}; give {rows} for the rows of such files, or {images} for such images")
