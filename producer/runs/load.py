"""From validated rows to a recorded run: new, continued, grown or edited. Rings no doorbell, opens no image."""

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from db import corrections, intake, named_leases, presence
from db.intake import KnownRun, LoadCancelled, LoadTaken, NewRow
from db.models import RunState
from db.session import Sessions, reading, write, write_once
from db.slices import paced, slice_rows
from db.values import Frozen, Source
from producer.runs.corrections import Wanted, correct, differences, refuse_if_not_to_be_corrected, refused
from producer.runs.moving import moved_root
from producer.runs.operate import Tell
from producer.sources.cells import one_line
from producer.sources.rows import row_slice
from producer.sources.source import RowSource, Survey
from producer.stopping import STOPPING, refusal, refuse
from workers.cli.base import spelled_run
from workers.errors import Sam3Error, UsageError
from workers.fleet.processes import take_lease, this_process

AUTO_CHUNK_IMAGES = 256  # long enough that filling and draining the pipeline does not count
SMALLEST_AUTO_CHUNK = 8
CHUNKS_FOR_EACH_WORKER = 4  # in a small run, so that all workers end at about the same time

LOAD_LEASE_SECONDS = 60.0
FIRST_ROWS = 100  # of those that are new to a run that has rows, whose files are looked at

Value = TypeVar("Value")
Args = ParamSpec("Args")
Check = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class RunRequest:
    """What is asked of a run besides its rows."""

    name: str
    prompts: tuple[str, ...]  # for every image
    frozen: Frozen
    chunk_size: int | None = None  # None: chosen by the size of the run
    limit: int | None = None  # rows; no part of the run's identity
    advice: str = "Give this one another name with --run, or the same settings"  # to whom the name stands for another
    argument: str | None = ""  # RUN as the next command needs it, if that is not the name; None if none can name it
    copy: str = ""  # name without its ending for an export with another threshold, with {} for that
    moved_from: Path | None = None  # where the source was when the run was recorded
    check: Check | None = None  # looks at some new rows' paths before anything is recorded, and may raise `UsageError`


@dataclass(frozen=True)
class Recorded:
    """What recording a run did."""

    run_id: int
    new_rows: int
    gone_rows: int
    corrected: str = ""  # which settings a run without results got, in words


@dataclass(frozen=True)
class Plan:
    """How the source is read this time."""

    skip: int  # rows already read
    matching: bool  # known rows are found by path and prompts
    restart: bool  # begins a new matching from the first row


def record(sessions: Sessions, source: RowSource, request: RunRequest, tell: Tell) -> Recorded:
    """Bring the database up to what the source says; afterwards the run is active, or done.

    A killed one goes on where it stopped. Raises `UsageError` if the run's name stands for something else.
    """
    facts = _facts(source)
    known, facts, corrected = _followed(sessions, source, facts, request)
    survey = None
    if known is not None and (other := differences(known, wanted := _wanted(facts, request))):
        refuse_if_not_to_be_corrected(sessions, known, wanted, other)
        if other.of_rows:  # then it is recorded anew, which must not end with nothing
            survey = _checked_survey(source, request)
        with _loading(sessions, known.id, request):
            correct(sessions, known, wanted, other)
        changed = f"run {request.name} had no results yet: {other.told('{name} {there} -> {here}')}"
        corrected = f"{corrected}; {changed}" if corrected else changed
        known = _find(sessions, request.name)
    if known is None:
        survey = survey or _checked_survey(source, request)
        known = _create(sessions, facts, request, survey.rows)
    elif _unchanged(known, source):
        return Recorded(known.id, 0, 0, corrected)
    with _looking_at_new_objects_only(), _loading(sessions, known.id, request) as loader:
        return replace(_load(loader, source, survey, request, tell), corrected=corrected)


def _facts(source: RowSource) -> Source:
    """What is written down of a source, so that the same command finds its run again."""
    return Source(
        path=str(source.path),
        image_column=source.columns.image,
        prompt_column=source.columns.prompt,
        columns=source.columns.names,
        root=str(source.root),
        confined=source.confined,
        follow_symlinks=source.follow_symlinks,
    )


def _followed(
    sessions: Sessions, source: RowSource, facts: Source, request: RunRequest
) -> tuple[KnownRun | None, Source, str]:
    """The run of the name, which follows a source that was moved; how it is read for it; and what to tell of that."""
    known = _find(sessions, request.name)
    if known is None:
        if request.moved_from is not None:
            raise UsageError(f"--moved-from {one_line(str(request.moved_from))}: there is no run {request.name}")
        return None, facts, ""
    refuse(_argument(request), known.state, *STOPPING)
    there = known.source
    root = moved_root(sessions, known, source, facts, request.moved_from)
    if root is None:
        return known, facts, ""
    with _loading(sessions, known.id, request) as loader:
        loader.write(corrections.move, facts.path, root)
    old, new = (there.path, facts.path) if there.path != facts.path else (there.root, root)
    stayed = f", its images are still below {one_line(root)}" if root != facts.root else ""
    told = f"run {request.name} goes on with {one_line(new)}, which was {one_line(old)}{stayed}"
    return _find(sessions, request.name), replace(facts, root=root), told


def _checked_survey(source: RowSource, request: RunRequest) -> Survey:
    survey = source.survey()
    check(request, survey)
    return survey


def _argument(request: RunRequest) -> str:
    """RUN as another command needs it."""
    return request.argument or spelled_run(request.name)


def _wanted(facts: Source, request: RunRequest) -> Wanted:
    argument = None if request.argument is None else _argument(request)
    copy = request.copy or f"{request.name}-{{}}"
    return Wanted(request.name, facts, request.frozen, request.prompts, request.advice, argument, copy)


@contextmanager
def _loading(sessions: Sessions, run_id: int, request: RunRequest) -> Iterator["Loader"]:
    """The right to change a run's rows and settings alone. Raises `UsageError` if somebody else has it."""
    try:
        with Loader(sessions, run_id) as loader:
            yield loader
    except LoadCancelled:
        raise _stopped(sessions, request) from None
    except LoadTaken:
        raise UsageError(
            f"run {request.name} is being loaded by another sam3-enqueue; run this again when that has ended"
            " (or in a minute, if it was killed on another machine)"
        ) from None


def _stopped(sessions: Sessions, request: RunRequest) -> Sam3Error:
    """What to tell of a run that was cancelled or deleted while it was loaded."""
    known, run = _find(sessions, request.name), _argument(request)
    if known is None:
        return UsageError(f"run {request.name} was deleted while it was loaded; the same command again records it anew")
    if known.state in STOPPING:
        return refusal(run, known.state)
    return UsageError(f"run {request.name} was cancelled while it was loaded; sam3-retry {run} takes up what it had")


@contextmanager
def _looking_at_new_objects_only() -> Iterator[None]:
    """Rows make Python look for garbage often, and it would look through all imported modules each time (15 %)."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Loader:
    """The right to load a run alone, held by a lease: every slice renews it, in the transaction that brings rows.

    A loader that was killed on this machine is not waited for. Raises `LoadTaken`.
    """

    def __init__(self, sessions: Sessions, run_id: int) -> None:
        self.sessions, self.run_id = sessions, run_id
        self._name, self._me = f"load {run_id}", this_process()

    def __enter__(self) -> Self:
        if not take_lease(self.sessions, self._name, self._me, LOAD_LEASE_SECONDS):
            raise LoadTaken
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(SQLAlchemyError):  # else it runs out by itself
            write(self.sessions, named_leases.release_lease, self._name, self._me)

    def write(
        self, work: Callable[Concatenate[Session, int, Args], Value], *args: Args.args, **kwargs: Args.kwargs
    ) -> Value:
        """Run `work(session, run_id, ...)` in one transaction, if the load is still ours."""

        def renewed(session: Session) -> Value:
            if not named_leases.renew_lease(session, self._name, self._me, LOAD_LEASE_SECONDS):
                raise LoadTaken
            return work(session, self.run_id, *args, **kwargs)

        return write_once(self.sessions, renewed)


def _find(sessions: Sessions, name: str) -> KnownRun | None:
    with reading(sessions) as session:
        return intake.find_run(session, name)


def _create(sessions: Sessions, facts: Source, request: RunRequest, rows: int) -> KnownRun:
    with reading(sessions) as session:
        size = request.chunk_size or auto_chunk_size(rows, presence.live_workers(session))
    # Lost the race for the name: then the other one's run is known now.
    with suppress(IntegrityError):
        write(sessions, intake.create_run, request.name, facts, request.frozen, request.prompts, size)
    known = _find(sessions, request.name)
    if known is None:
        raise _stopped(sessions, request)
    if other := differences(known, wanted := _wanted(facts, request)):
        raise refused(wanted, other)
    return known


def auto_chunk_size(rows: int, workers: int) -> int:
    share = -(-rows // (CHUNKS_FOR_EACH_WORKER * max(1, workers)))
    return min(AUTO_CHUNK_IMAGES, max(SMALLEST_AUTO_CHUNK, share))


def _unchanged(known: KnownRun, source: RowSource) -> bool:
    """The same source as when it was last read to its end: nothing to read."""
    if known.source_sha256 is None or known.state == RunState.LOADING:
        return False
    return source.is_still(known.source_size, known.source_mtime_ns, known.source_sha256)


def plan(known: KnownRun, survey: Survey) -> Plan:
    """New and unfinished sources are read on; a grown one too; an edited one is read again and matched."""
    same_file = (known.source_size, known.source_mtime_ns) == (survey.size, survey.mtime_ns)
    if known.source_rows == 0 and known.load == 1:
        return Plan(0, matching=False, restart=False)
    if known.source_sha256 is None and same_file and survey.sha256 is not None:
        # A matching that was interrupted goes on as one: the rows it already brought are marked with its number.
        return Plan(known.source_rows, matching=known.load > 1, restart=False)
    if survey.continues:
        # A row that an earlier edit took out may be among those that were added: it is the old row, not a second one.
        return Plan(known.source_rows, matching=known.load > 1, restart=False)
    return Plan(0, matching=True, restart=True)


def _load(loader: Loader, source: RowSource, survey: Survey | None, request: RunRequest, tell: Tell) -> Recorded:
    known = _find(loader.sessions, request.name)  # as it is now that nobody else loads it
    if known is None:
        raise LoadCancelled
    if _unchanged(known, source):
        return Recorded(known.id, 0, 0)
    if survey is None or known.source_sha256 is not None:  # the one we have was not made to compare with that
        survey = source.survey(known.source_size, known.source_sha256)
    how = plan(known, survey)
    wanted = survey.rows if request.limit is None else min(request.limit, survey.rows)
    asked = itertools.islice(source.rows(how.skip), max(0, wanted - how.skip))
    rows = _checked(loader, asked, known, survey, request)
    begin = intake.begin_matching if how.restart else intake.begin_reading
    loader.write(begin, survey.size, survey.mtime_ns, source.columns.names)
    new = _add_rows(loader, rows, known, how, wanted, tell)
    if new or known.state == RunState.LOADING:
        _mark_duplicates(loader)
    read_to_end = wanted == survey.rows
    loader.write(intake.finish_load, survey.sha256 if read_to_end else None, ended=read_to_end)
    now_known = _find(loader.sessions, request.name)
    return Recorded(known.id, new, now_known.gone if now_known is not None and how.matching else 0)


def check(request: RunRequest, survey: Survey) -> None:
    """Look at some of the files that a new run is asked for."""
    if request.check is not None:
        request.check(_sample(request, survey))


def _sample(request: RunRequest, survey: Survey) -> list[str]:
    return [path for number, path in survey.sample if request.limit is None or number < request.limit]


def _checked(
    loader: Loader, rows: Iterator[NewRow], known: KnownRun, survey: Survey, request: RunRequest
) -> Iterator[NewRow]:
    """The same rows. If some are new to a run that has rows, their files are looked at before any is recorded."""
    if request.check is None or known.images == 0:  # a new run's were, before it was created
        return rows
    first = list(itertools.islice(rows, FIRST_ROWS))
    paths = {row.path for row in first if row.rejected is None} | set(_sample(request, survey))
    with reading(loader.sessions) as session:
        new = paths - intake.known_paths(session, known.id, paths)
    if new:
        request.check(sorted(paths))
    return itertools.chain(first, rows)


def _add_rows(loader: Loader, rows: Iterator[NewRow], known: KnownRun, how: Plan, wanted: int, tell: Tell) -> int:
    new, read = 0, how.skip
    reopens = known.state == RunState.CANCELLED
    while slice_ := row_slice(rows, slice_rows(loader.sessions), known.chunk_size):
        add = partial(loader.write, intake.add_rows, read, slice_, matching=how.matching, reopens=reopens)
        new += paced(loader.sessions, add)
        read += len(slice_)
        tell(read, wanted)
    return new


def _mark_duplicates(loader: Loader) -> None:
    with reading(loader.sessions) as session:
        repeated = intake.repeated_rows(session, loader.run_id)
        while slice_ := list(itertools.islice(repeated, slice_rows(loader.sessions))):
            paced(loader.sessions, partial(loader.write, intake.mark_duplicates, slice_))
