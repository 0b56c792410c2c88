"""Recognises the source of a run that was moved, by its content or because the user says so with --moved-from.

Compares recorded rows with files; decodes no image, and changes nothing.
"""

import shlex

from db.corrections import rows_at
from db.intake import KnownRun
from db.session import Sessions, read
from db.values import Source
from producer.sources import place
from producer.sources.looking import same_files, stat_files
from producer.sources.rows.cells import escaped
from producer.sources.source import RecordedRow, RowSource
from workers.errors import UsageError
from workers.places import location
from workers.places.location import FileSeen

LOOK_SECONDS = 10.0
SAMPLE_ROWS = 200


def moved_root(
    sessions: Sessions,
    known: KnownRun,
    source: RowSource,
    new: Source,
    moved_from: str | None,
) -> str | None:
    """The folder that relative paths start from, if the run's source was moved to `new`; None if it was not moved.

    It counts as moved if the old source is gone and the new one has the same content, or if `moved_from` names the old
    one. A root that is gone may be replaced in the same way. Raises `UsageError` if the old source is gone and the new
    one has other content, and for a `moved_from` that still exists or is not the run's source.
    """
    old = known.source
    if old.path == new.path:
        both_confined = new.confined and old.confined and new.root != old.root
        return new.root if both_confined and _root_moved(sessions, known, new.root) else None
    if moved_from is not None:
        _check(known, moved_from)
    if place.is_there(old.path):
        return None
    recorded = _sample(sessions, known)
    if moved_from is None and recorded and not source.holds(known, recorded):
        raise UsageError(
            f"{escaped(new.path)}: does not hold what was recorded from {escaped(old.path)}, which is gone; "
            f"if it was moved and then changed: --moved-from {shlex.quote(escaped(old.path))}; "
            "if it is another: give its run another name with --run"
        )
    return _root(old, new, recorded)


def _root_moved(sessions: Sessions, known: KnownRun, root: str) -> bool:
    recorded = _sample(sessions, known)
    return not location.exists(known.source.root) and bool(recorded) and same_files(recorded, root)


def _sample(sessions: Sessions, known: KnownRun) -> list[RecordedRow]:
    return read(sessions, rows_at, known.id, _spread(known.images))


def _check(known: KnownRun, moved_from: str) -> None:
    given = place.absolute(moved_from)
    if given != known.source.path:
        raise UsageError(f"--moved-from {escaped(given)}: the run was recorded from {escaped(known.source.path)}")
    if place.is_there(given):
        raise UsageError(f"--moved-from {escaped(given)}: is still there; move it away, or give another run with --run")


def _spread(count: int) -> list[int]:
    """Up to `SAMPLE_ROWS` row numbers, evenly spread from the first row to the last."""
    picked = min(count, SAMPLE_ROWS)
    return sorted({1 + number * (count - 1) // max(1, picked - 1) for number in range(picked)})


def _root(old: Source, new: Source, recorded: list[RecordedRow]) -> str:
    """The new root, or the old root if a CSV was moved and its images were not."""
    relative = [path for _, path, _ in recorded if location.is_relative(path)]
    if new.confined or not relative or not location.exists(old.root):
        return new.root
    roots = (old.root, new.root)
    seen = stat_files([location.place(root, path) for root in roots for path in relative], LOOK_SECONDS)
    in_old, in_new = (
        sum(isinstance(seen.get(location.place(root, path)), FileSeen) for path in relative) for root in roots
    )
    return old.root if in_old > in_new else new.root
