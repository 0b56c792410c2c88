"""A source that no longer stands where its run was recorded: found again by content, or where somebody says it is.

Looks at recorded rows and at files; decodes no image.
"""

import os
import shlex
from pathlib import Path

from db.corrections import rows_at
from db.intake import KnownRun
from db.session import Sessions, read
from db.values import Source
from producer.sources.cells import one_line
from producer.sources.looking import same_files, stat_files
from producer.sources.source import RecordedRow, RowSource
from workers.errors import UsageError
from workers.inference import location
from workers.inference.location import FileSeen

LOOK_SECONDS = 10.0
SAMPLE_ROWS = 200


def moved_root(
    sessions: Sessions,
    known: KnownRun,
    source: RowSource,
    here: Source,
    moved_from: Path | None,
) -> str | None:
    """The folder that relative paths start from if the run's source was moved `here`; None if it was not.

    It was if the old one is gone and the new one has the same content, or if `moved_from` says so; likewise a root
    that is gone, of the same source. Raises `UsageError` if the old source is gone and the new one is another, and for
    a `moved_from` that is still there or was never it.
    """
    there = known.source
    if there.path == here.path:
        both_confined = here.confined and there.confined and here.root != there.root
        return here.root if both_confined and _root_moved(sessions, known, here.root) else None
    if moved_from is not None:
        _check(known, moved_from)
    if os.path.exists(there.path):
        return None
    recorded = _sample(sessions, known)
    if moved_from is None and recorded and not source.holds(known, recorded):
        raise UsageError(
            f"{one_line(here.path)}: does not hold what was recorded from {one_line(there.path)}, which is gone; "
            f"if it was moved and then changed: --moved-from {shlex.quote(one_line(there.path))}; "
            "if it is another: give its run another name with --run"
        )
    return _root(there, here, recorded)


def _root_moved(sessions: Sessions, known: KnownRun, root: str) -> bool:
    recorded = _sample(sessions, known)
    return not os.path.exists(known.source.root) and bool(recorded) and same_files(recorded, root)


def _sample(sessions: Sessions, known: KnownRun) -> list[RecordedRow]:
    return read(sessions, rows_at, known.id, _spread(known.images))


def _check(known: KnownRun, moved_from: Path) -> None:
    old = os.path.abspath(moved_from)
    if old != known.source.path:
        raise UsageError(f"--moved-from {one_line(old)}: the run was recorded from {one_line(known.source.path)}")
    if os.path.exists(old):
        raise UsageError(f"--moved-from {one_line(old)}: is still there; move it away, or give another run with --run")


def _spread(count: int) -> list[int]:
    """Numbers of rows from the whole run, the first and the last among them."""
    picked = min(count, SAMPLE_ROWS)
    return sorted({1 + number * (count - 1) // max(1, picked - 1) for number in range(picked)})


def _root(there: Source, here: Source, recorded: list[RecordedRow]) -> str:
    """The new root; the old one if a CSV was moved and its images were not."""
    relative = [path for _, path, _ in recorded if location.is_relative(path)]
    if here.confined or not relative or not os.path.isdir(there.root):
        return here.root
    roots = (there.root, here.root)
    seen = stat_files([location.place(root, path) for root in roots for path in relative], LOOK_SECONDS)
    left, came = (
        sum(isinstance(seen.get(location.place(root, path)), FileSeen) for path in relative) for root in roots
    )
    return there.root if left > came else here.root
