"""Says what recording an input would do, or did: counts, rejected rows, the first images. Writes nothing."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from db.intake import NewRow
from producer.cli.flags.options import exit_code
from producer.cli.flags.prompt_flags import tell_cost
from producer.cli.progress import Meter
from producer.cli.projection import projected, prompts_after
from producer.runs.load import Recorded, RunRequest, asked_rows, auto_chunk_size, check
from producer.sources.selection import told_left_out
from producer.sources.source import RowSource
from workers.cli import base
from workers.cli.base import counted, say
from workers.inference.reading import location

FIRST_PATHS = 3  # shown so that the user can check where the images are looked for


def report_dry_run(source: RowSource, request: RunRequest, url: str, flags: dict[str, Any]) -> int:
    """Read all rows and say what recording them would do; return the exit code. Needs no broker, database or model.

    It also says which columns are read, where the first images are, what is left out, and what the run will cost if the
    database of `url` is there and has a run of the same model.
    """
    survey = source.survey()
    check(request, survey)
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
    }
    good, price = wanted - len(rejected), flags["gpu_hour_price"]
    told_cost, cost = projected(url, request.frozen, len(request.prompts), good, price)
    tell_cost(url, request, price)
    if flags["json"]:
        left_out = [asdict(reason) for reason in source.left_out]
        more = {"first": first, "left_out": left_out, **source.named_columns, "cost": cost}
        base.print_json(facts | {"dry_run": True} | more)
    else:
        prompts = json.dumps(prompts_after(url, request), ensure_ascii=False)
        click.echo(f"would record {told(facts, Recorded(0, wanted, 0), source.kind)}; prompts: {prompts}")
        _tell_rows(source, rejected, first)
        if told_cost and not request.change:  # else its cost is told already
            click.echo(told_cost)
        elif price is not None and not told_cost:
            say("no run of this model was measured here: run a part of it first, such as --limit 100 --run try")
    return exit_code(len(rejected), wanted, flags["max_failures"], flags["exit_zero"])


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
        click.echo(f"  {name.replace('_', ' ')}: {base.printable(column)}")
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
