"""Records the rows of an input in a run that is new, continued, grown or edited. Rings no doorbell, opens no image."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from sqlalchemy.exc import IntegrityError

from db import corrections, duplicates, intake, presence, prompt_rows
from db.intake import KnownRun, LoadCancelled, LoadTaken, NewRow
from db.prompts import change_prompts
from db.session import Sessions, reading, write
from db.slices import paced, slice_rows
from db.states import RunState
from db.values import Frozen, Source, typed_columns
from producer.garbage import rarely_collected
from producer.runs.corrections import Differences, Wanted, correct, differences, refuse_if_not_to_be_corrected, refused
from producer.runs.loader import Loader
from producer.runs.moving import moved_root
from producer.runs.operate import Tell, settle, until_unclaimed
from producer.runs.prompts import NO_CHANGE, PromptChange
from producer.sources.cells import one_line
from producer.sources.rows import row_slice
from producer.sources.sampling import chosen, picked
from producer.sources.source import RowSource, Survey
from producer.stopping import STOPPING, refusal, refuse
from workers.cli.base import spelled_run
from workers.errors import Sam3Error, UsageError

AUTO_CHUNK_IMAGES = 256  # so many that the time to fill and drain the pipeline hardly counts
SMALLEST_AUTO_CHUNK = 8
CHUNKS_FOR_EACH_WORKER = 4  # at least, in a small run, so that all workers end at about the same time

FIRST_ROWS = 100  # rows whose files are checked before rows are added to a run

Check = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class RunRequest:
    """What a command asks of a run besides its rows. `advice`, `argument` and `copy` are those of `Wanted`."""

    name: str
    prompts: tuple[str, ...]  # prompts of every image
    frozen: Frozen
    chunk_size: int | None = None  # None: chosen by the size of the run
    limit: int | None = None  # most rows to read; another limit is no other setting
    sample: int | None = None  # how many random rows to read, instead of all; another sample is no other setting
    seed: int = 0  # of the sample
    advice: str = "Give this one another name with --run, or the same settings"
    argument: str | None = ""  # empty: the name
    copy: str = ""  # empty: made from the name
    moved_from: str | None = None  # where the source was when the run was recorded
    check: Check | None = None  # checks paths of new rows before they are recorded, and may raise `UsageError`
    change: PromptChange = NO_CHANGE  # of the prompts of a run that was recorded before
    announce: Callable[[], None] = lambda: None  # is called before they are changed
    place: str | None = None  # where the source will be, if it is read from a copy that is not kept


@dataclass(frozen=True)
class Recorded:
    """What recording a run did."""

    run_id: int
    new_rows: int
    gone_rows: int
    corrected: str = ""  # what became of settings of the run or of this command, in words
    changed: bool = False  # its prompts are others now
    adding: int = 0  # number of done images that are to be computed for prompts that were added


@dataclass(frozen=True)
class Plan:
    """How the source is read this time."""

    skip: int  # number of rows that are read already
    matching: bool  # rows that the run has are recognised by path, prompts and boxes
    restart: bool  # a new matching begins at the first row


def record(sessions: Sessions, source: RowSource, request: RunRequest, tell: Tell) -> Recorded:
    """Record the source's rows that the run does not have yet; afterwards the run is active, or done.

    Then its prompts are changed as the request says. After a kill the same call continues. Raises `UsageError` if the
    name belongs to a run that cannot take these settings, this source or this change of its prompts.
    """
    if request.change:
        request = _agreed(_find(sessions, request.name), sessions, request)
    return _with_other_prompts(sessions, _record(sessions, source, request, tell), request)


def rehearse(sessions: Sessions | None, source: RowSource, request: RunRequest) -> tuple[str, ...]:
    """Raise the `UsageError`s that `record` raises before it changes anything. Changes nothing itself.

    Without `sessions` there is no database yet. Returns the prompts that the run would have for every image.
    """
    known = None if sessions is None else _find(sessions, request.name)
    asked = _agreed(known, sessions, request) if request.change else request
    judged = _judged(sessions, known, source, asked)
    if sessions is None or known is None or judged.other.of_rows:
        _checked_survey(source, asked)
    elif not _unchanged(known, source):
        survey = source.survey(known.source_size, known.source_sha256)
        _, rows = asked_rows(source, survey, asked, _how(known, survey, asked).skip)
        _checked(sessions, rows, known, survey, asked)
    before = asked.prompts if known is None or "prompt" in judged.other.there else known.prompts
    return asked.change.applied(before)


def _agreed(known: KnownRun | None, sessions: Sessions | None, request: RunRequest) -> RunRequest:
    """The request for a run whose prompts are to change. Raises `UsageError` if they cannot change so."""
    change = request.change
    if sessions is None or known is None:
        raise UsageError(f"there is no run {request.name} to change the prompts of; a new run gets its own by --prompt")
    if known.frozen.points_per_side is not None:
        raise UsageError(f"run {request.name} looks for everything and takes no prompts; give them to another run")
    with reading(sessions) as session:
        had = prompt_rows.known_prompts(session, known.id, change.drop)
    change.check(request.name, _argument(request), known.prompts, had)
    return replace(request, prompts=change.agreed(known, request.prompts))


def _with_other_prompts(sessions: Sessions, recorded: Recorded, request: RunRequest) -> Recorded:
    """Change the prompts of the run, or finish a change that was interrupted."""
    known = _find(sessions, request.name)
    if known is None or not (request.change or known.unsettled):
        return recorded
    with _loading(sessions, known.id, request) as loader:
        request.announce()
        change = partial(loader.write, change_prompts, request.change.add, request.change.drop)
        changed = until_unclaimed(change)
        return replace(recorded, changed=changed, adding=settle(sessions, known.id, loader.renewing))


def _record(sessions: Sessions, source: RowSource, request: RunRequest, tell: Tell) -> Recorded:
    """Record the rows, as `record` does."""
    known = _find(sessions, request.name)
    judged = _judged(sessions, known, source, request)
    facts, other, corrected, survey = judged.facts, judged.other, "", None
    if known is not None and judged.moves:
        corrected = _move(sessions, known, source, facts, request)
        known = _find(sessions, request.name)
    if known is not None and other:
        if other.of_rows:  # the run will be deleted and recorded anew, so first make sure that the source is good
            survey = _checked_survey(source, request)
        with _loading(sessions, known.id, request):
            correct(sessions, known, _wanted(facts, request), other)
        changed = f"run {request.name} had no results yet: {other.told('{name} {there} -> {here}')}"
        corrected = f"{corrected}; {changed}" if corrected else changed
        known = _find(sessions, request.name)
    if known is None:
        survey = survey or _checked_survey(source, request)
        known = _create(sessions, facts, request, survey.rows)
    elif set(known.prompts) != set(request.prompts):  # they agree, so the run's were changed since this command's
        now = f"run {request.name} goes on with the prompts that it has now: {', '.join(known.prompts)}"
        corrected = f"{corrected}; {now}" if corrected else now
    if _unchanged(known, source):
        return Recorded(known.id, 0, 0, corrected)
    with rarely_collected(), _loading(sessions, known.id, request) as loader:
        return replace(_load(loader, source, survey, request, tell), corrected=corrected)


def _facts(source: RowSource, request: RunRequest) -> Source:
    """What the run records of its source, so that the same command finds the run again."""
    return Source(
        path=request.place or source.place,
        image_column=source.columns.image,
        prompt_column=source.columns.prompt,
        box_column=source.columns.boxes,
        columns=source.columns.names,
        types=source.columns.types,
        root=source.root,
        confined=source.confined,
        follow_symlinks=source.follow_symlinks,
    )


@dataclass(frozen=True)
class _Judged:
    """What a command would change of a run, which it is allowed to."""

    facts: Source  # with the root that the run has afterwards
    moves: bool = False  # the source was moved
    other: Differences = field(default_factory=Differences)  # of settings that a run without results takes over


def _judged(sessions: Sessions | None, known: KnownRun | None, source: RowSource, request: RunRequest) -> _Judged:
    """Raise `UsageError` if the run cannot take this source or these settings. Changes nothing."""
    facts = _facts(source, request)
    if sessions is None or known is None:
        if request.moved_from is not None:
            raise UsageError(f"--moved-from {one_line(request.moved_from)}: there is no run {request.name}")
        return _Judged(facts)
    refuse(_argument(request), known.state, *STOPPING)
    root = moved_root(sessions, known, source, facts, request.moved_from)
    there = known
    if root is not None:
        facts = replace(facts, root=root)
        there = replace(known, source=replace(known.source, path=facts.path, root=root))
    if other := differences(there, wanted := _wanted(facts, request)):
        refuse_if_not_to_be_corrected(sessions, known, wanted, other)
    return _Judged(facts, root is not None, other)


def _move(sessions: Sessions, known: KnownRun, source: RowSource, facts: Source, request: RunRequest) -> str:
    """Record the new place of the run's source; return a sentence about it."""
    there = known.source
    with _loading(sessions, known.id, request) as loader:
        loader.write(corrections.move, facts.path, facts.root)
    old, new = (there.path, facts.path) if there.path != facts.path else (there.root, facts.root)
    stayed = f", its images are still below {one_line(facts.root)}" if facts.root != source.root else ""
    return f"run {request.name} goes on with {one_line(new)}, which was {one_line(old)}{stayed}"


def _checked_survey(source: RowSource, request: RunRequest) -> Survey:
    survey = source.survey()
    check(request, survey)
    return survey


def _argument(request: RunRequest) -> str:
    """RUN as another command needs it."""
    return request.argument or spelled_run(request.name)


def _wanted(facts: Source, request: RunRequest) -> Wanted:
    argument = None if request.argument is None else _argument(request)
    advice = request.advice
    if request.change:  # of a run that is there: under another name, or after a delete, there would be none to change
        argument, advice = None, "Give the settings that the run was recorded with"
    copy = request.copy or f"{request.name}-{{}}"
    return Wanted(request.name, facts, request.frozen, request.prompts, advice, argument, copy)


@contextmanager
def _loading(sessions: Sessions, run_id: int, request: RunRequest) -> Iterator[Loader]:
    """Hold the right to change a run's rows and settings alone. Raises `UsageError` if another process has it."""
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
    """The error for a run that was cancelled or deleted while it was loaded."""
    known, run = _find(sessions, request.name), _argument(request)
    if known is None:
        return UsageError(f"run {request.name} was deleted while it was loaded; the same command again records it anew")
    if known.state in STOPPING:
        return refusal(run, known.state)
    return UsageError(f"run {request.name} was cancelled while it was loaded; sam3-retry {run} takes up what it had")


def _find(sessions: Sessions, name: str) -> KnownRun | None:
    with reading(sessions) as session:
        return intake.find_run(session, name)


def _create(sessions: Sessions, facts: Source, request: RunRequest, rows: int) -> KnownRun:
    with reading(sessions) as session:
        size = request.chunk_size or auto_chunk_size(rows, presence.live_workers(session))
    # IntegrityError: another command has created a run of this name at the same moment.
    with suppress(IntegrityError):
        write(sessions, intake.create_run, request.name, facts, request.frozen, request.prompts, size)
    known = _find(sessions, request.name)
    if known is None:
        raise _stopped(sessions, request)
    if other := differences(known, wanted := _wanted(facts, request)):
        raise refused(wanted, other)
    return known


def auto_chunk_size(rows: int, workers: int) -> int:
    """Images of a chunk if the user chooses no number: enough chunks for all workers, but no tiny ones."""
    share = -(-rows // (CHUNKS_FOR_EACH_WORKER * max(1, workers)))
    return min(AUTO_CHUNK_IMAGES, max(SMALLEST_AUTO_CHUNK, share))


def _unchanged(known: KnownRun, source: RowSource) -> bool:
    """Whether the source is unchanged since it was read to its end, so that there is nothing to read."""
    if known.source_sha256 is None or known.state == RunState.LOADING:
        return False
    return source.is_still(known.source_size, known.source_mtime_ns, known.source_sha256)


def plan(known: KnownRun, survey: Survey) -> Plan:
    """Decide how to read the source: a new, unfinished or grown source from where the last reading stopped, an edited
    source from its start, with matching."""
    same_file = (known.source_size, known.source_mtime_ns) == (survey.size, survey.mtime_ns)
    if known.source_rows == 0 and known.load == 1:
        return Plan(0, matching=False, restart=False)
    if known.source_sha256 is None and same_file and survey.sha256 is not None:
        # An interrupted matching continues as a matching: the rows that it brought already have its load number.
        return Plan(known.source_rows, matching=known.load > 1, restart=False)
    if survey.continues:
        # If rows were once removed from the source and are now added again, they are the old rows, so they are matched.
        return Plan(known.source_rows, matching=known.load > 1, restart=False)
    return Plan(0, matching=True, restart=True)


def _load(loader: Loader, source: RowSource, survey: Survey | None, request: RunRequest, tell: Tell) -> Recorded:
    known = _find(loader.sessions, request.name)  # read again under the lease, when no other process loads it
    if known is None:
        raise LoadCancelled
    if _unchanged(known, source):
        return Recorded(known.id, 0, 0)
    # A survey made before did not know the run's checksum, so it cannot say whether the source continues.
    if survey is None or known.source_sha256 is not None:
        survey = source.survey(known.source_size, known.source_sha256)
    sampled, how = _is_sampled(request, survey), _how(known, survey, request)
    wanted, asked = asked_rows(source, survey, request, how.skip)
    rows = _checked(loader.sessions, asked, known, survey, request)
    begin = intake.begin_matching if how.restart else intake.begin_reading
    # After a sample the source counts as another one, so that the next load looks for each of its rows in the run.
    seen = (0, 0) if sampled else (survey.size, survey.mtime_ns)
    loader.write(begin, *seen, typed_columns(source.columns.names, source.columns.types))
    new = _add_rows(loader, rows, known, how, wanted, tell)
    if new or known.state == RunState.LOADING:
        _mark_duplicates(loader)
    read_to_end = wanted == survey.rows
    loader.write(intake.finish_load, survey.sha256 if read_to_end else None, ended=read_to_end)
    now_known = _find(loader.sessions, request.name)
    return Recorded(known.id, new, now_known.gone if now_known is not None and how.matching else 0)


def _is_sampled(request: RunRequest, survey: Survey) -> bool:
    return request.sample is not None and request.sample < survey.rows


def _how(known: KnownRun, survey: Survey, request: RunRequest) -> Plan:
    return _plan_of_sample(known, request) if _is_sampled(request, survey) else plan(known, survey)


def _plan_of_sample(known: KnownRun, request: RunRequest) -> Plan:
    """Decide how to read a sample. Raises `UsageError` if the run has all rows."""
    if known.source_ended:
        raise UsageError(
            f"--sample: run {request.name} has all rows of its source already; leave --sample out, "
            "or give the sample another name with --run"
        )
    has_rows = known.source_rows > 0 or known.load > 1
    return Plan(0, matching=has_rows, restart=has_rows)


def asked_rows(source: RowSource, survey: Survey, request: RunRequest, skip: int = 0) -> tuple[int, Iterator[NewRow]]:
    """How many rows the request asks for, and these rows without the first `skip`."""
    if request.sample is not None and request.sample < survey.rows:
        numbers = chosen(survey.rows, request.sample, request.seed)
        return len(numbers), picked(source.rows(), numbers)
    wanted = survey.rows if request.limit is None else min(request.limit, survey.rows)
    return wanted, itertools.islice(source.rows(skip), max(0, wanted - skip))


def check(request: RunRequest, survey: Survey) -> None:
    """Check some of the files of a new run, unless --no-check was given. Raises `UsageError`."""
    if request.check is not None:
        request.check(_sample(request, survey))


def _sample(request: RunRequest, survey: Survey) -> list[str]:
    return [path for number, path in survey.sample if request.limit is None or number < request.limit]


def _checked(
    sessions: Sessions, rows: Iterator[NewRow], known: KnownRun, survey: Survey, request: RunRequest
) -> Iterator[NewRow]:
    """The same rows, after checking the files of some, if the run has rows already and some of these are new to it."""
    if request.check is None or known.images == 0:  # files of a new run were checked before it was created
        return rows
    first = list(itertools.islice(rows, FIRST_ROWS))
    paths = {row.path for row in first if row.rejected is None} | set(_sample(request, survey))
    with reading(sessions) as session:
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
        repeated = duplicates.repeated_rows(session, loader.run_id)
        while slice_ := list(itertools.islice(repeated, slice_rows(loader.sessions))):
            paced(loader.sessions, partial(loader.write, duplicates.mark_duplicates, slice_))
