"""Finds which files are inputs of a run, so that no output replaces them. Asks the database; opens no file."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from db.session import Sessions, read
from db.views.inputs import RunInput, recorded_paths, run_inputs
from workers.places import location

File = TypeVar("File", Path, str)


class Inputs:
    """The sources and images of all runs of a database, and sources of runs that are not recorded yet."""

    def __init__(self, sessions: Sessions | None = None, sources: Sequence[tuple[str, str]] = ()) -> None:
        """`sources` are (name of a run, its file or folder). Without `sessions` no database is asked."""
        self._sessions, self._sources = sessions, sources
        self._known: list[RunInput] | None = None
        self._identities: dict[tuple[int, int], str] | None = None  # device and inode of every source

    def source_of(self, found: os.stat_result) -> str | None:
        """The name of the run whose source is this file, by device and inode; None if there is none."""
        if self._identities is None:
            named = [*self._sources, *((run.name, run.source) for run in self._runs())]
            self._identities = {identity: name for name, source in named if (identity := _identity(source))}
        return self._identities.get((found.st_dev, found.st_ino))

    def run_of_source(self, url: str) -> str | None:
        """The name of the run whose source is this object; None if there is none."""
        return next((run.name for run in self._runs() if run.source == url), None)

    def images_among(self, paths: Sequence[File]) -> dict[File, str]:
        """File -> name of the run, for those of these files, paths or URLs, that are images of a run.

        A file is found by its path as it is given, and by its path without links.
        """
        if self._sessions is None:
            return {}
        found: dict[File, str] = {}
        by_root: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for run in self._runs():
            by_root[run.root][run.id] = run.name
        for root, names in by_root.items():
            spelled = {spelling: path for path in paths for spelling in location.spellings(str(path), root)}
            for run_id, spelling in sorted(read(self._sessions, recorded_paths, list(names), list(spelled))):
                found.setdefault(spelled[spelling], names[run_id])
        return found

    def _runs(self) -> list[RunInput]:
        if self._known is None:
            self._known = [] if self._sessions is None else read(self._sessions, run_inputs)
        return self._known


def _identity(source: str) -> tuple[int, int] | None:
    try:
        found = os.stat(source)
    except OSError:  # the source is gone, or on a disk that this machine does not see
        return None
    return found.st_dev, found.st_ino
