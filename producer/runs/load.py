"""Records the rows of an input in a run that is new, continued, grown or edited. Rings no doorbell, opens no image."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy.exc import IntegrityError

from db import corrections, duplicates, gone, intake, presence
from db.intake import KnownRun, LoadCancelled, LoadTaken, NewRow
from db.prompts import change_prompts
from db.session import Sessions, read, reading, write
from db.slices import in_slices, paced, slice_rows
from db.states import RunState
from db.values import Source, typed_columns
from producer.garbage import rarely_collected
from producer.runs.corrections import correct, differences, refused
from producer.runs.judging import agreed, judge, wanted_of
from producer.runs.loader import Loader
from producer.runs.operate import Tell, settle, until_unclaimed
from producer.runs.plan import Plan, asked_rows, is_unchanged, plan_for, sample_size
from producer.runs.request import RunRequest
from producer.sources.rows.cells import escaped
from producer.sources.rows.rules import row_slice
from producer.sources.source import RowSource, Survey
from producer.stopping import STOPPING, refusal
from workers.errors import Sam3Error, UsageError

AUTO_CHUNK_IMAGES = 256  # so many that the time to fill and drain the pipeline hardly counts
SMALLEST_AUTO_CHUNK = 8
CHUNKS_FOR_EACH_WORKER = 4  # at least, in a small run, so that all workers end at about the same time

FIRST_ROWS = 100  # rows whose files are checked before rows are added to a run


@dataclass(frozen=True)
class Recorded:
    """What recording a run did."""

    run_id: int
    new_rows: int
    gone_rows: int
    corrected: str = ""  # what became of settings of the run or of this command, in words
    changed: bool = False  # its prompts are others now
    adding: int = 0  # number of done images that are to be computed for prompts that were added


def record(sessions: Sessions, source: RowSource, request: RunRequest, tell: Tell) -> Recorded:
    """Record the source's rows that the run does not have yet; afterwards the run is active, or done.

    Then its prompts are changed as the request says. After a kill the same call continues. Raises `UsageError` if the
    name belongs to a run that cannot take these settings, this source or this change of its prompts.
    """
    if request.change:
        request = agreed(_find(sessions, request.name), sessions, request)
    return _with_other_prompts(sessions, _record(sessions, source, request, tell), request)


@dataclass(frozen=True)
class Rehearsed:
    """What `record` would find."""

    prompts: tuple[str, ...]  # that the run would have for every image
    goes_on: int | None = None  # id of the run that would go on; None if a new one would be recorded
    is_unchanged: bool = False  # that run has read all rows of its source


def rehearse(sessions: Sessions | None, source: RowSource, request: RunRequest) -> Rehearsed:
    """Raise the `UsageError`s that `record` raises before it changes anything. Changes nothing itself.

    Without `sessions` there is no database yet.
    """
    known = None if sessions is None else _find(sessions, request.name)
    asked = agreed(known, sessions, request) if request.change else request
    judged = judge(sessions, known, source, asked)
    before = asked.prompts if known is None or "prompt" in judged.other.there else known.prompts
    prompts = asked.change.applied(before)
    if sessions is None or known is None or judged.other.of_rows:
        _checked_survey(source, asked)
        return Rehearsed(prompts)
    if not (unchanged := is_unchanged(known, source)):
        survey = source.survey(known.source_size, known.source_sha256)
        _, rows = asked_rows(source, survey, asked, plan_for(known, survey, asked).skip)
        _checked(sessions, rows, known, survey, asked)
    return Rehearsed(prompts, known.id, unchanged)


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
    judged = judge(sessions, known, source, request)
    facts, other, corrected, survey = judged.facts, judged.other, "", None
    if known is not None and judged.moves:
        corrected = _move(sessions, known, source, facts, request)
        known = _find(sessions, request.name)
    if known is not None and other:
        if other.of_rows:  # the run will be deleted and recorded anew, so first make sure that the source is good
            survey = _checked_survey(source, request)
        with _loading(sessions, known.id, request):
            correct(sessions, known, wanted_of(facts, request), other)
        changed = f"run {request.name} had no results yet: {other.told('{name} {there} -> {here}')}"
        corrected = f"{corrected}; {changed}" if corrected else changed
        known = _find(sessions, request.name)
    if known is None:
        survey = survey or _checked_survey(source, request)
        known = _create(sessions, facts, request, survey.rows)
    elif set(known.prompts) != set(request.prompts):  # they agree, so the run's were changed since this command's
        now = f"run {request.name} goes on with the prompts that it has now: {', '.join(known.prompts)}"
        corrected = f"{corrected}; {now}" if corrected else now
    if is_unchanged(known, source):
        return Recorded(known.id, 0, 0, corrected)
    with rarely_collected(), _loading(sessions, known.id, request) as loader:
        return replace(_load(loader, source, survey, request, tell), corrected=corrected)


def _move(sessions: Sessions, known: KnownRun, source: RowSource, facts: Source, request: RunRequest) -> str:
    """Record the new place of the run's source; return a sentence about it."""
    there = known.source
    with _loading(sessions, known.id, request) as loader:
        loader.write(corrections.move, facts.path, facts.root)
    old, new = (there.path, facts.path) if there.path != facts.path else (there.root, facts.root)
    stayed = f", its images are still below {escaped(facts.root)}" if facts.root != source.root else ""
    return f"run {request.name} goes on with {escaped(new)}, which was {escaped(old)}{stayed}"


def _checked_survey(source: RowSource, request: RunRequest) -> Survey:
    survey = source.survey()
    check(request, survey)
    return survey


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
    known, run = _find(sessions, request.name), request.run
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
    if other := differences(known, wanted := wanted_of(facts, request)):
        raise refused(wanted, other)
    return known


def auto_chunk_size(rows: int, workers: int) -> int:
    """Images of a chunk if the user chooses no number: enough chunks for all workers, but no tiny ones."""
    share = -(-rows // (CHUNKS_FOR_EACH_WORKER * max(1, workers)))
    return min(AUTO_CHUNK_IMAGES, max(SMALLEST_AUTO_CHUNK, share))


def _load(loader: Loader, source: RowSource, survey: Survey | None, request: RunRequest, tell: Tell) -> Recorded:
    known = _find(loader.sessions, request.name)  # read again under the lease, when no other process loads it
    if known is None:
        raise LoadCancelled
    if is_unchanged(known, source):
        return Recorded(known.id, 0, 0)
    # A survey made before did not know the run's checksum, so it cannot say whether the source continues.
    if survey is None or known.source_sha256 is not None:
        survey = source.survey(known.source_size, known.source_sha256)
    how = plan_for(known, survey, request)
    wanted, asked = asked_rows(source, survey, request, how.skip)
    rows = _checked(loader.sessions, asked, known, survey, request)
    begin = intake.begin_matching if how.restart else intake.begin_reading
    # After a sample the source counts as another one, so that the next load looks for each of its rows in the run.
    seen = (survey.size, survey.mtime_ns) if sample_size(request, survey) is None else (0, 0)
    loader.write(begin, *seen, typed_columns(source.columns.names, source.columns.types))
    new = _add_rows(loader, rows, known, how, wanted, tell)
    if new or known.state == RunState.LOADING:
        _mark_duplicates(loader)
    read_to_end = wanted == survey.rows
    if read_to_end and (how.restart or not known.source_ended):  # else the rows that are gone were so before
        _drop_gone(loader)
    loader.write(intake.finish_load, survey.sha256 if read_to_end else None, ended=read_to_end)
    now_known = _find(loader.sessions, request.name)
    return Recorded(known.id, new, now_known.gone if now_known is not None and how.matching else 0)


def check(request: RunRequest, survey: Survey) -> None:
    """Check some of the files of a new run, unless --no-check was given. Raises `UsageError`."""
    if request.check is not None:
        request.check(_sample(request, survey))


def _sample(request: RunRequest, survey: Survey) -> list[str]:
    return [path for number, path in survey.sample if request.limit is None or number < request.limit]


def _checked(
    sessions: Sessions, rows: Iterator[NewRow], known: KnownRun, survey: Survey, request: RunRequest
) -> Iterator[NewRow]:
    """Return the rows, after checking the files of some of them if the run has rows already but not all of these."""
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


def _drop_gone(loader: Loader) -> None:
    """Cancel what was not computed yet of the rows that the source, which was read to its end, no longer has."""
    if read(loader.sessions, gone.has_gone_rows, loader.run_id):
        in_slices(loader.sessions, loader.renewing(gone.drop_gone_slice), loader.run_id)


def _mark_duplicates(loader: Loader) -> None:
    with reading(loader.sessions) as session:
        repeated = duplicates.repeated_rows(session, loader.run_id)
        while slice_ := list(itertools.islice(repeated, slice_rows(loader.sessions))):
            paced(loader.sessions, partial(loader.write, duplicates.mark_duplicates, slice_))
