"""Says what recording an input would do, or did: counts, rejected rows, the first images. Writes nothing."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from db.session import Sessions
from producer.cli.flags.options import exit_code
from producer.cli.flags.redo import foretell
from producer.cli.projection import projected, projected_addition
from producer.cli.seen_rows import SeenRows
from producer.runs.load import Recorded, Rehearsed, auto_chunk_size, check, rehearse
from producer.runs.plan import asked_rows
from producer.runs.request import RunRequest
from producer.sources.selection import told_left_out
from producer.sources.source import RowSource
from workers.cli import base
from workers.cli.base import counted, say
from workers.cli.opening import look_into
from workers.errors import Unreachable, printable
from workers.places import location

FIRST_KINDS = 5  # kinds of bad rows that are shown


def report_dry_run(
    source: RowSource,
    request: RunRequest,
    url: str,
    flags: dict[str, Any],
    fit: Callable[[Sessions, RunRequest], RunRequest] = lambda sessions, request: request,
    run_file: Path | None = None,
) -> int:
    """Read all rows and say what recording them would do; return the exit code. Needs no broker, database or model.

    It also says which columns are read, where the first images are, what is left out, and what the run, or a prompt
    that is added to it, will cost if the database of `url` is there and has a run of the same model. What the command
    itself would refuse is refused; `fit` is called first, as the command does. A database that cannot be reached is
    a warning. `run_file` is that of `open_database`.
    """
    prompts, redone, seen = _rehearsed(source, request, url, flags, fit, run_file)
    wanted, rows = asked_rows(source, source.survey(), request)
    seen.read(request, wanted, rows)
    facts = _facts(request, wanted, redone, seen)
    adding = projected_addition(url, request, flags["gpu_hour_price"])
    work = adding.images if request.change else seen.to_compute + redone
    told_cost, cost = adding.told, adding.cost
    if work and not request.change:
        told_cost, cost = projected(url, request.frozen, len(prompts), work, flags["gpu_hour_price"])
    if flags["json"]:
        left_out = [asdict(reason) for reason in source.left_out]
        more = {"first": seen.first, "left_out": left_out, **source.named_columns, "cost": cost}
        base.print_json(facts | {"dry_run": True} | more | {"adding": adding.images, "prompts": list(prompts)})
    else:
        _tell(source, facts, prompts, seen, flags["redo"])
        if told_cost:
            click.echo(told_cost)
        elif flags["gpu_hour_price"] is not None and work:
            say("no run of this model was measured here: run a part of it first, such as --limit 100 --run try")
    return exit_code(facts["rejected"], wanted, flags["max_failures"], flags["exit_zero"])


def _rehearsed(
    source: RowSource,
    request: RunRequest,
    url: str,
    flags: dict[str, Any],
    fit: Callable[[Sessions, RunRequest], RunRequest],
    run_file: Path | None,
) -> tuple[tuple[str, ...], int, SeenRows]:
    """The prompts that the run would have, how many of its images --redo takes, and what will be seen of the rows.

    Raises what the command itself would raise before it begins.
    """
    try:
        sessions = look_into(url, run_file)
    except Unreachable as error:
        say(f"warning: {error}; not compared with runs that are there")
        check(request, source.survey())
        return request.change.applied(request.prompts), 0, SeenRows(source, None, Rehearsed(()))
    there = rehearse(sessions, source, request if sessions is None else fit(sessions, request))
    redone = 0 if sessions is None or there.goes_on is None else foretell(sessions, there.goes_on, flags)
    return there.prompts, redone, SeenRows(source, sessions, there)


def _facts(request: RunRequest, wanted: int, redone: int, seen: SeenRows) -> dict[str, Any]:
    """What would be recorded, as `sam3-enqueue --json` tells of what was."""
    rejected = seen.rejected.total()
    size = request.chunk_size or auto_chunk_size(wanted, 1)
    return {
        "run": request.name,
        "images": wanted,
        "chunks": -(-(wanted - rejected) // size),
        "queued": 0,
        "already_done": seen.ended,
        "duplicates": seen.duplicates,
        "rejected": rejected,
        "cancelled": 0,
        "redone": redone,
        "new": seen.new,
    }


def _tell(source: RowSource, facts: dict[str, Any], prompts: Sequence[str], seen: SeenRows, redo: str | None) -> None:
    """Say all but what it will cost."""
    record = "record" if seen.new else "record nothing new of"
    shown = json.dumps(prompts, ensure_ascii=False)
    click.echo(f"would {record} {told(facts, Recorded(0, seen.new, 0), source.kind)}; prompts: {shown}")
    _tell_rows(source, seen)
    if redo:
        click.echo(f"would compute {counted(facts['redone'], 'image')} again (--redo {redo})")


def _tell_rows(source: RowSource, seen: SeenRows) -> None:
    for name, column in source.named_columns.items():
        click.echo(f"  {name.replace('_', ' ')}: {printable(column)}")
    for path in seen.first:
        click.echo(f"  image: {location.shown(path)}")
    if source.left_out:
        say(f"  left out: {told_left_out(source.left_out)}")
    kinds = list(seen.rejected.items())
    for reason, count in kinds[:FIRST_KINDS]:
        say(f"  rejected: {reason}" + (f" ({count:,} such rows)" if count > 1 else ""))
    if others := sum(count for _, count in kinds[FIRST_KINDS:]):
        say(f"  ... and {counted(others, 'row')} for other reasons")


def told(facts: dict[str, Any], recorded: Recorded, kind: str) -> str:
    """For people, such as `run faces: 10,000 images in 40 chunks, 40 queued now, 3 duplicate`."""
    images = facts["images"] - facts.get("gone", 0)
    parts = [f"{counted(images, 'image')} in {counted(facts['chunks'], 'chunk')}"]
    words = {"queued": "queued now", "already_done": "already done", "duplicates": "duplicate"}
    words |= {"rejected": "rejected", "cancelled": "cancelled"}
    parts += [f"{facts[key]:,} {word}" for key, word in words.items() if facts[key]]
    if recorded.new_rows != images:
        parts.append(f"{recorded.new_rows:,} new")
    if recorded.gone_rows:
        parts.append(f"{recorded.gone_rows:,} no longer in the {kind} (left out of exports)")
    return f"run {facts['run']}: {', '.join(parts)}"
