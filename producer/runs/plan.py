"""Decides which rows of a source are read this time: all, those behind earlier ones, or a sample. Records nothing."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from db.intake import KnownRun, NewRow
from db.states import RunState
from producer.runs.request import RunRequest
from producer.sources.sampling import chosen, picked
from producer.sources.source import RowSource, Survey
from workers.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """How the source is read this time."""

    skip: int  # number of rows that are read already
    matching: bool  # rows that the run has are recognised by path, prompts and boxes
    restart: bool  # a new matching begins at the first row


def is_unchanged(known: KnownRun, source: RowSource) -> bool:
    """Whether the source is unchanged since it was read to its end, so that there is nothing to read."""
    if known.source_sha256 is None or known.state == RunState.LOADING:
        return False
    return source.is_still(known.source_size, known.source_mtime_ns, known.source_sha256)


def sample_size(request: RunRequest, survey: Survey) -> int | None:
    """How many random rows the request asks for; None if it asks for all, or for as many as there are."""
    return request.sample if request.sample is not None and request.sample < survey.rows else None


def plan_for(known: KnownRun, survey: Survey, request: RunRequest) -> Plan:
    """Decide how to read what the request asks for. Raises `UsageError` for a sample of a run that has all rows."""
    return plan(known, survey) if sample_size(request, survey) is None else _plan_of_sample(known, request)


def _plan_of_sample(known: KnownRun, request: RunRequest) -> Plan:
    if known.source_ended:
        raise UsageError(
            f"--sample: run {request.name} has all rows of its source already; leave --sample out, "
            "or give the sample another name with --run"
        )
    has_rows = known.source_rows > 0 or known.load > 1
    return Plan(0, matching=has_rows, restart=has_rows)


def asked_rows(source: RowSource, survey: Survey, request: RunRequest, skip: int = 0) -> tuple[int, Iterator[NewRow]]:
    """How many rows the request asks for, and these rows without the first `skip`."""
    if (size := sample_size(request, survey)) is not None:
        numbers = chosen(survey.rows, size, request.seed)
        return len(numbers), picked(source.rows(), numbers)
    wanted = survey.rows if request.limit is None else min(request.limit, survey.rows)
    return wanted, itertools.islice(source.rows(skip), max(0, wanted - skip))


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
