"""Judges whether a run can take what a command asks of it: source, settings, a change of prompts. Changes nothing."""

from dataclasses import dataclass, field, replace

from db import prompt_rows
from db.intake import KnownRun
from db.session import Sessions, reading
from db.values import Source
from producer.runs.corrections import Differences, Wanted, differences, refuse_if_not_to_be_corrected
from producer.runs.moving import moved_root
from producer.runs.request import RunRequest
from producer.sources.rows.cells import escaped
from producer.sources.source import RowSource
from producer.stopping import STOPPING, refuse
from workers.errors import UsageError


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
class Judged:
    """What a command would change of a run, which it is allowed to."""

    facts: Source  # with the root that the run has afterwards
    moves: bool = False  # the source was moved
    other: Differences = field(default_factory=Differences)  # of settings that a run without results takes over


def judge(sessions: Sessions | None, known: KnownRun | None, source: RowSource, request: RunRequest) -> Judged:
    """Raise `UsageError` if the run cannot take this source or these settings. Changes nothing."""
    facts = _facts(source, request)
    if sessions is None or known is None:
        if request.moved_from is not None:
            raise UsageError(f"--moved-from {escaped(request.moved_from)}: there is no run {request.name}")
        return Judged(facts)
    refuse(request.run, known.state, *STOPPING)
    root = moved_root(sessions, known, source, facts, request.moved_from)
    there = known
    if root is not None:
        facts = replace(facts, root=root)
        there = replace(known, source=replace(known.source, path=facts.path, root=root))
    if other := differences(there, wanted := wanted_of(facts, request)):
        refuse_if_not_to_be_corrected(sessions, known, wanted, other)
    return Judged(facts, root is not None, other)


def agreed(known: KnownRun | None, sessions: Sessions | None, request: RunRequest) -> RunRequest:
    """The request for a run whose prompts are to change. Raises `UsageError` if they cannot change so."""
    change = request.change
    if sessions is None or known is None:
        raise UsageError(f"there is no run {request.name} to change the prompts of; a new run gets its own by --prompt")
    if known.frozen.looks_for_everything:
        raise UsageError(f"run {request.name} looks for everything and takes no prompts; give them to another run")
    with reading(sessions) as session:
        had = prompt_rows.known_prompts(session, known.id, change.drop)
    change.check(request.name, request.run, known.prompts, had)
    return replace(request, prompts=change.agreed(known, request.prompts))


def wanted_of(facts: Source, request: RunRequest) -> Wanted:
    """The settings that the command asks for, with what to advise where the run has others."""
    argument = None if request.argument is None else request.run
    advice = request.advice
    if request.change:  # of a run that is there: under another name, or after a delete, there would be none to change
        argument, advice = None, "Give the settings that the run was recorded with"
    copy = request.copy or f"{request.name}-{{}}"
    return Wanted(request.name, facts, request.frozen, request.prompts, advice, argument, copy)
