"""From validated rows to a recorded run: new, continued, grown or edited. Rings no doorbell, opens no image."""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from sqlalchemy.exc import IntegrityError

from db import intake, presence
from db.intake import SLICE_ROWS, Frozen, KnownRun, LoadCancelled, LoadTaken, Source
from db.models import RunState
from db.session import Sessions, reading, write
from producer.folder import FolderManifest
from producer.manifest import CsvManifest, Survey
from workers.errors import UsageError

AUTO_CHUNK_IMAGES = 256  # long enough that filling and draining the pipeline does not count
SMALLEST_AUTO_CHUNK = 8
CHUNKS_FOR_EACH_WORKER = 4  # in a small run, so that all workers end at about the same time

Manifest = CsvManifest | FolderManifest


Tell = Callable[[int, int], None]  # called with how many rows have been read, of how many


@dataclass(frozen=True)
class Request:
    """What is asked of a run besides its rows."""

    name: str
    prompts: tuple[str, ...]  # for every image
    frozen: Frozen
    chunk_size: int | None = None  # None: chosen by the size of the run
    limit: int | None = None  # rows; no part of the run's identity


@dataclass(frozen=True)
class Recorded:
    """What recording a run did."""

    run_id: int
    new_rows: int
    gone_rows: int


@dataclass(frozen=True)
class Plan:
    """How the source is read this time."""

    skip: int  # rows already read
    matching: bool  # known rows are found by path and prompts
    restart: bool  # begins a new matching from the first row


def record(sessions: Sessions, manifest: Manifest, request: Request, tell: Tell) -> Recorded:
    """Bring the database up to what the source says; afterwards the run is active, or done.

    A killed one goes on where it stopped. Raises `UsageError` if the run's name stands for something else.
    """
    source = Source(
        source=str(manifest.source),
        image_column=manifest.columns.image,
        columns=manifest.columns.names,
        root=str(manifest.root),
        confined=manifest.confined,
        follow_symlinks=manifest.follow_symlinks,
    )
    known = _find(sessions, request.name)
    if known is not None:
        refuse_other_settings(known, source, request)
        if _unchanged(known, manifest):
            return Recorded(known.id, 0, 0)
    survey = manifest.survey(known.source_size, known.source_sha256) if known else manifest.survey()
    if known is None:
        _create(sessions, source, request, survey.rows)
        known = _find(sessions, request.name)
        assert known is not None
    try:
        return _load(sessions, manifest, known, survey, request, tell)
    except LoadCancelled:
        name = request.name
        raise UsageError(
            f"run {name} was cancelled while it was loaded; sam3-retry {name} takes up what it had"
        ) from None
    except LoadTaken:
        raise _taken(request.name) from None


def _find(sessions: Sessions, name: str) -> KnownRun | None:
    with reading(sessions) as session:
        return intake.find_run(session, name)


def _create(sessions: Sessions, source: Source, request: Request, rows: int) -> None:
    with reading(sessions) as session:
        size = request.chunk_size or auto_chunk_size(rows, presence.live_workers(session))
    try:
        write(sessions, intake.create_run, request.name, source, request.frozen, request.prompts, size)
    except IntegrityError:
        raise _taken(request.name) from None


def auto_chunk_size(rows: int, workers: int) -> int:
    share = -(-rows // (CHUNKS_FOR_EACH_WORKER * max(1, workers)))
    return min(AUTO_CHUNK_IMAGES, max(SMALLEST_AUTO_CHUNK, share))


def refuse_other_settings(known: KnownRun, source: Source, request: Request) -> None:
    """Results of one name must all mean the same: refuse another source, other settings or other prompts."""
    there = asdict(known.frozen) | {"prompt": known.prompts} | _identity(known.source)
    here = asdict(request.frozen) | {"prompt": request.prompts} | _identity(source)
    differences = [
        f"{key.replace('_', '-')} {_shown(there[key])} there, {_shown(here[key])} here"
        for key in there
        if there[key] != here[key]
    ]
    if differences:
        raise UsageError(
            f"run {request.name} exists with other settings: {'; '.join(differences)}. "
            "Give this one another name with --run, or the same settings"
        )


def _identity(source: Source) -> dict[str, object]:
    return {
        "source": source.source,
        "image_column": source.image_column,
        "image_root": source.root,
        "follow_symlinks": source.follow_symlinks,
    }


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _unchanged(known: KnownRun, manifest: Manifest) -> bool:
    """The same source as when it was last read to its end: nothing to read."""
    if known.source_sha256 is None or known.state == RunState.LOADING:
        return False
    return manifest.is_still(known.source_size, known.source_mtime_ns)


def plan(known: KnownRun, survey: Survey) -> Plan:
    """New and unfinished sources are read on; a grown one too; an edited one is read again and matched."""
    same_file = (known.source_size, known.source_mtime_ns) == (survey.size, survey.mtime_ns)
    if known.source_rows == 0 and known.load == 1:
        return Plan(0, matching=False, restart=False)
    if known.source_sha256 is None and same_file and survey.sha256 is not None:
        # A matching that was interrupted goes on as one: the rows it already brought are marked with its number.
        return Plan(known.source_rows, matching=known.load > 1, restart=False)
    if survey.continues:
        return Plan(known.source_rows, matching=False, restart=False)
    return Plan(0, matching=True, restart=True)


def _load(
    sessions: Sessions, manifest: Manifest, known: KnownRun, survey: Survey, request: Request, tell: Tell
) -> Recorded:
    how = plan(known, survey)
    begin = intake.begin_matching if how.restart else intake.begin_reading
    write(sessions, begin, known.id, survey.size, survey.mtime_ns, manifest.columns.names)
    wanted = survey.rows if request.limit is None else min(request.limit, survey.rows)
    new = _add_rows(sessions, manifest, known, how, wanted, tell)
    if new or known.state == RunState.LOADING:
        _mark_duplicates(sessions, known.id)
    read_to_end = wanted == survey.rows
    write(sessions, intake.finish_load, known.id, survey.sha256 if read_to_end else None)
    with reading(sessions) as session:
        gone = intake.gone_rows(session, known.id) if how.matching and read_to_end else 0
    return Recorded(known.id, new, gone)


def _add_rows(sessions: Sessions, manifest: Manifest, known: KnownRun, how: Plan, wanted: int, tell: Tell) -> int:
    new, read = 0, how.skip
    whole_chunks = max(1, SLICE_ROWS // known.chunk_size) * known.chunk_size
    rows = itertools.islice(manifest.rows(how.skip), max(0, wanted - how.skip))
    while slice_ := list(itertools.islice(rows, min(SLICE_ROWS, whole_chunks))):
        began = time.monotonic()
        new += write(sessions, intake.add_rows, known.id, read, slice_, matching=how.matching)
        _leave_room(sessions, time.monotonic() - began)
        read += len(slice_)
        tell(read, wanted)
    return new


def _taken(name: str) -> UsageError:
    return UsageError(f"run {name} is being loaded by another sam3-enqueue; run this again when that has ended")


def _leave_room(sessions: Sessions, seconds: float) -> None:
    """While workers commit, leave the database to them for as long as our last transaction took."""
    with reading(sessions) as session:
        busy = presence.busy_workers(session)
    if busy:
        time.sleep(seconds)


def _mark_duplicates(sessions: Sessions, run_id: int) -> None:
    with reading(sessions) as session:
        repeated = intake.repeated_rows(session, run_id)
        while slice_ := list(itertools.islice(repeated, SLICE_ROWS)):
            write(sessions, intake.mark_duplicates, run_id, slice_)
