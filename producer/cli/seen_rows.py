"""Reads the rows of a source without recording them, and counts what they would add to a run. Prints no counts."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from db.intake import NewRow, known_paths
from db.session import Sessions, read
from db.views.status import progress
from producer.cli.progress import Meter
from producer.runs.load import Rehearsed
from producer.runs.request import RunRequest
from producer.sources.source import RowSource
from workers.places import location

FIRST_PATHS = 3  # shown so that the user can check where the images are looked for
MOST_KINDS = 1000  # of bad rows that are told apart
SLICE_ROWS = 1000  # that are looked up in the run together
MOST_HASHES = 1_000_000  # of rows that are remembered to know repeated ones, in some 70 MB
_VALUES = re.compile(r"'[^']*'|\d+")  # what differs in the reasons of bad rows of one kind


class SeenRows:
    """What recording the rows of a source would add to the run that `there` tells of."""

    def __init__(self, source: RowSource, sessions: Sessions | None, there: Rehearsed) -> None:
        self._source, self._sessions, self._there = source, sessions, there
        self.rejected: Counter[str] = Counter()  # bad rows by the reason of the first one of their kind
        self._reasons: dict[str, str] = {}  # kind -> the reason of its first row
        self.first: list[str] = []  # the absolute paths of the first good rows
        self.new = 0  # rows that the run does not have, good or bad
        self.duplicates = 0  # rows that repeat one of the first million different ones
        self.to_compute = 0  # images that are new to the run, and those that it has not computed yet
        self.ended = 0  # images of the run that are done or failed
        self._hashes: set[int] = set()  # of good rows
        if sessions is not None and there.goes_on is not None:
            images = read(sessions, progress, there.goes_on).images
            self.to_compute, self.ended = images.pending, images.ended

    def read(self, request: RunRequest, wanted: int, rows: Iterator[NewRow]) -> None:
        """Read the rows, which are `wanted`."""
        done = 0
        with Meter(f"checking {request.name}", "rows") as meter:
            while slice_ := list(itertools.islice(rows, SLICE_ROWS)):
                self._look(slice_)
                done += len(slice_)
                meter.tell(done, wanted)

    def _look(self, rows: Sequence[NewRow]) -> None:
        known = self._known({row.path for row in rows})
        for row in rows:
            is_new = row.path not in known
            self.new += is_new
            if row.rejected:
                self._reject(row.rejected[1])
                continue
            if len(self.first) < FIRST_PATHS:
                self.first.append(location.absolute(location.place(self._source.root, row.path)))
            of_row = hash((row.path, row.prompts, row.boxes))
            if of_row in self._hashes:
                self.duplicates += 1
                continue
            if len(self._hashes) < MOST_HASHES:
                self._hashes.add(of_row)
            self.to_compute += is_new

    def _reject(self, reason: str) -> None:
        """Count a bad row. `reason` begins with its place; of one kind are those that differ in numbers and quotes."""
        kind = _VALUES.sub("", reason.partition(": ")[2])
        if kind not in self._reasons and len(self._reasons) == MOST_KINDS:
            kind = next(iter(self._reasons))
        self.rejected[self._reasons.setdefault(kind, reason)] += 1

    def _known(self, paths: set[str]) -> set[str]:
        """Which of these paths are rows of the run."""
        if self._sessions is None or self._there.goes_on is None:
            return set()
        return paths if self._there.is_unchanged else read(self._sessions, known_paths, self._there.goes_on, paths)
