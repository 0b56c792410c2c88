"""Says what recording an input would do, or did: counts, rejected rows, the first images. Writes nothing."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from db.intake import NewRow
from db.session import Sessions
from producer.cli.flags.options import exit_code
from producer.cli.flags.redo import foretell
from producer.cli.progress import Meter
from producer.cli.projection import projected, projected_addition
from producer.runs.load import Recorded, auto_chunk_size, check, rehearse
from producer.runs.plan import asked_rows
from producer.runs.request import RunRequest
from producer.sources.selection import told_left_out
from producer.sources.source import RowSource
from workers.cli import base
from workers.cli.base import counted, say
from workers.cli.opening import look_into
from workers.errors import Unreachable, printable
from workers.inference.reading import location

FIRST_PATHS = 3  # shown so that the user can check where the images are looked for


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
    prompts, redone = _rehearsed(source, request, url, flags, fit, run_file)
    survey = source.survey()
    wanted, rows = asked_rows(source, survey, request)
    rejected, first = _read_rows(source, request, wanted, rows)
    size = request.chunk_size or auto_chunk_size(wanted, 1)
    facts = {
        "run": request.name,
        "images": wanted,
        "chunks": -(-(wanted - len(rejected)) // size),
        "queued": 0,
        "already_done": 0,
        "duplicates": 0,
        "rejected": len(rejected),
        "cancelled": 0,
        "redone": redone,
    }
    good, price = wanted - len(rejected), flags["gpu_hour_price"]
    adding = projected_addition(url, request, price)
    told_cost, cost = adding.told, adding.cost
    if not request.change:
        told_cost, cost = projected(url, request.frozen, len(prompts), good, price)
    if flags["json"]:
        left_out = [asdict(reason) for reason in source.left_out]
        more = {"first": first, "left_out": left_out, **source.named_columns, "cost": cost}
        base.print_json(facts | {"dry_run": True} | more | {"adding": adding.images, "prompts": list(prompts)})
    else:
        shown = json.dumps(prompts, ensure_ascii=False)
        click.echo(f"would record {told(facts, Recorded(0, wanted, 0), source.kind)}; prompts: {shown}")
        _tell_rows(source, rejected, first)
        if flags["redo"]:
            click.echo(f"would compute {counted(redone, 'image')} again (--redo {flags['redo']})")
        if told_cost:
            click.echo(told_cost)
        elif price is not None and not told_cost:
            say("no run of this model was measured here: run a part of it first, such as --limit 100 --run try")
    return exit_code(len(rejected), wanted, flags["max_failures"], flags["exit_zero"])


def _rehearsed(
    source: RowSource,
    request: RunRequest,
    url: str,
    flags: dict[str, Any],
    fit: Callable[[Sessions, RunRequest], RunRequest],
    run_file: Path | None,
) -> tuple[tuple[str, ...], int]:
    """The prompts that the run would have, and how many of its images --redo takes. Raises what the command itself
    would raise before it begins."""
    try:
        sessions = look_into(url, run_file)
    except Unreachable as error:
        say(f"warning: {error}; not compared with runs that are there")
        check(request, source.survey())
        return request.change.applied(request.prompts), 0
    prompts = rehearse(sessions, source, request if sessions is None else fit(sessions, request))
    return prompts, foretell(sessions, request.name, flags)


def _read_rows(
    source: RowSource, request: RunRequest, wanted: int, rows: Iterable[NewRow]
) -> tuple[list[str], list[str]]:
    """The reasons of all rejected rows, and the absolute paths of the first good rows."""
    rejected: list[str] = []
    first: list[str] = []
    with Meter(f"checking {request.name}", "rows") as meter:
        for number, row in enumerate(rows, start=1):
            if row.rejected:
                rejected.append(row.rejected[1])
            elif len(first) < FIRST_PATHS:
                first.append(location.absolute(location.place(source.root, row.path)))
            if number % 1000 == 0 or number == wanted:
                meter.tell(number, wanted)
    return rejected, first


def _tell_rows(source: RowSource, rejected: list[str], first: list[str]) -> None:
    for name, column in source.named_columns.items():
        click.echo(f"  {name.replace('_', ' ')}: {printable(column)}")
    for path in first:
        click.echo(f"  image: {location.shown(path)}")
    if source.left_out:
        say(f"  left out: {told_left_out(source.left_out)}")
    for message in rejected[:5]:
        say(f"  rejected: {message}")
    if len(rejected) > 5:
        say(f"  ... and {len(rejected) - 5:,} more")


def told(facts: dict[str, Any], recorded: Recorded, kind: str) -> str:
    """For people, such as `run faces: 10,000 images in 40 chunks, 40 queued now, 3 duplicate`."""
    parts = [f"{counted(facts['images'], 'image')} in {counted(facts['chunks'], 'chunk')}"]
    words = {"queued": "queued now", "already_done": "already done", "duplicates": "duplicate"}
    words |= {"rejected": "rejected", "cancelled": "cancelled"}
    parts += [f"{facts[key]:,} {word}" for key, word in words.items() if facts[key]]
    if recorded.new_rows != facts["images"]:
        parts.append(f"{recorded.new_rows:,} new")
    if recorded.gone_rows:
        parts.append(f"{recorded.gone_rows:,} no longer in the {kind} (left out of exports)")
    return f"run {facts['run']}: {', '.join(parts)}"
