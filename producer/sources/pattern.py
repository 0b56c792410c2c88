"""Patterns of paths such as `photos/**/*.jpg`: which paths match. Opens no file, and knows no kind of input."""

import fnmatch
import os
import re
from pathlib import Path

_WILDCARD = re.compile(r"[*?[]")
ANY_FOLDERS = "**"


def has_wildcard(path: str) -> bool:
    """Whether the text has a `*`, `?` or `[`."""
    return _WILDCARD.search(path) is not None


def is_pattern(path: str | Path) -> bool:
    """Whether the path is a pattern: it has a wildcard, and there is no file of that name."""
    return has_wildcard(str(path)) and not os.path.lexists(path)


def fixed_folder(pattern: Path) -> Path:
    """The folder below which all matches are: what comes before the first part with a wildcard."""
    parts = pattern.parts
    return Path(*parts[: next(index for index, part in enumerate(parts) if _WILDCARD.search(part))])


class Pattern:
    """The part of a pattern after its fixed folder. `**` stands for any number of folders, `*` for no slash."""

    def __init__(self, pattern: Path) -> None:
        parts = pattern.parts[len(fixed_folder(pattern).parts) :]
        self._parts = [None if part == ANY_FOLDERS else re.compile(fnmatch.translate(part)) for part in parts]
        self._reached: tuple[str, frozenset[int]] = ("", self._skipped({0}))  # a folder, and its places

    def takes(self, path: str, *, folder: bool) -> bool:
        """Whether the file at `path`, below the fixed folder, matches, or whether files below the folder `path` may."""
        above, _, name = path.rpartition("/")
        places = self._after(self._places(above), name)
        end = len(self._parts)
        return any(place < end for place in places) if folder else end in places

    def _places(self, folder: str) -> frozenset[int]:
        """Before which parts of the pattern a walk can be that has reached this folder."""
        if folder != self._reached[0]:
            places = self._skipped({0})
            for name in folder.split("/") if folder else ():
                places = self._after(places, name)
            self._reached = folder, places
        return self._reached[1]

    def _after(self, places: frozenset[int], name: str) -> frozenset[int]:
        after = set()
        for place in places - {len(self._parts)}:
            part = self._parts[place]
            if part is None:
                after.add(place)
            elif part.match(name):
                after.add(place + 1)
        return self._skipped(after)

    def _skipped(self, places: set[int]) -> frozenset[int]:
        """With the places behind each `**`, as that also stands for no folder."""
        for place in sorted(places):
            while place < len(self._parts) and self._parts[place] is None:
                place += 1
                places.add(place)
        return frozenset(places)
