"""Records a run from a CSV and rings its first chunks, or only says what that would do. Knows no flags."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click

from db.session import reading
from db.views.status import ImageCounts, progress
from producer.cli.options import (
    exit_code,
    frozen_settings,
    read_chunk_size,
    read_prompts,
    run_name,
)
from producer.cli.progress import Meter
from producer.cli.redo import take_up
from producer.results.targets import free_file
from producer.runs.load import Check, Recorded, RunRequest, auto_chunk_size, check, record
from producer.sources.check_files import check_files
from producer.sources.kinds import open_file
from producer.sources.selection import told_left_out
from producer.sources.source import Reading, RowSource
from workers.broker.app import create_app
from workers.broker.connection import check_broker
from workers.cli import base
from workers.cli.base import counted, say
from workers.fleet.dispatch import dispatch, publisher
from workers.inference import location

FIRST_PATHS = 3  # of a dry run: do they lie where they should?


def enqueue(csv: Path, dry_run: bool, flags: dict[str, Any]) -> int:
    """Record and queue, or check; returns the exit code of the command."""
    prompts = read_prompts(flags["prompt"])
    source = open_input(open_file, csv, prompts, flags)
    settings = base.settings(model=flags["model"])
    name = run_name(flags["run"], flags["moved_from"] or csv)
    frozen = frozen_settings(settings, flags)
    warn_of_absent_model(frozen.model)
    looks = checking(source, flags["no_check"])
    size, moved_from = read_chunk_size(flags["chunk_size"]), flags["moved_from"]
    request = RunRequest(name, prompts, frozen, size, flags["limit"], moved_from=moved_from, check=looks)
    if dry_run:
        return report_dry_run(source, request, flags)
    sessions = base.open_database(settings.database_url, create=True)
    app = create_app(base.identified(settings, sessions))
    for warning in check_broker(app):
        say(f"warning: {warning}")
    with Meter(f"recording {name}", "rows") as meter:
        recorded = record(sessions, source, request, meter.tell)
    again = take_up(sessions, recorded.run_id, flags)
    if recorded.corrected:
        say(recorded.corrected)
    with reading(sessions) as session:
        now = progress(session, recorded.run_id)
    queued = dispatch(sessions, publisher(app), [recorded.run_id])
    ended = now.images.segmented + now.images.empty + now.images.failed
    facts = {
        "run": name,
        "images": now.images.total,
        "chunks": sum(now.chunks.values()),
        "queued": queued,
        "already_done": ended,
        "duplicates": now.images.duplicate,
        "rejected": now.images.rejected,
        "cancelled": now.images.cancelled,
        "gone": now.images.gone,
        **again,
    }
    rejected = now.images.rejected if recorded.new_rows else 0  # those of an earlier time were told then
    if flags["json"]:
        base.print_json(facts)
    else:
        click.echo(told(facts, recorded, source.kind))
        tell_next(name, rejected, now.images)
    return exit_code(rejected, now.images.total, flags["max_failures"], flags["exit_zero"])


def tell_next(name: str, rejected: int, images: ImageCounts) -> None:
    if rejected:
        say("Rejected rows: the same command with --dry-run names them")
    run = base.spelled_run(name)
    if images.pending:
        say(f"Next: sam3-status {run} --watch")
    elif images.cancelled:
        say(f"Next: sam3-retry {run}")
    else:
        say(f"Next: sam3-export {run} --format csv -o {free_file(f'{name}-results', '.csv')}")


def warn_of_absent_model(model: str) -> None:
    """A path says where the model is; that this machine does not have it need not mean that no worker does."""
    folder = Path(model).expanduser()
    if folder.is_absolute() and not folder.is_dir():
        say(f"warning: model {model}: no such folder on this machine; the workers need it under this path")


def open_input(
    kind: Callable[[Path, Reading], RowSource], path: Path, prompts: tuple[str, ...], flags: dict[str, Any]
) -> RowSource:
    """The input as the flags ask for it, checked as far as its start tells. `kind` opens it."""
    source = kind(
        path,
        Reading(
            encoding=flags["encoding"],
            delimiter=flags["delimiter"],
            needs_prompt=not prompts,
            image_column=flags["image_column"],
            prompt_column=flags["prompt_column"],
            root=flags["image_root"],
            follow_symlinks=flags["follow_symlinks"],
            exclude=flags.get("output"),
        ),
    )
    if source.told:
        say(f"reading {path} {source.told}")
    return source


def checking(source: RowSource, no_check: bool) -> Check | None:
    """What looks at some images before they are recorded."""
    return None if no_check or source.files_seen else partial(check_files, source, say=say)


def told(facts: dict[str, Any], recorded: Recorded, kind: str) -> str:
    """`run faces: 10,000 images in 40 chunks, 40 queued now, 3 duplicate`."""
    parts = [f"{counted(facts['images'], 'image')} in {counted(facts['chunks'], 'chunk')}"]
    words = {"queued": "queued now", "already_done": "already done", "duplicates": "duplicate"}
    words |= {"rejected": "rejected", "cancelled": "cancelled"}
    parts += [f"{facts[key]:,} {word}" for key, word in words.items() if facts[key]]
    if recorded.new_rows != facts["images"]:
        parts.append(f"{recorded.new_rows:,} new")
    if recorded.gone_rows:
        parts.append(f"{recorded.gone_rows:,} no longer in the {kind} (left out of exports)")
    return f"run {facts['run']}: {', '.join(parts)}"


def report_dry_run(source: RowSource, request: RunRequest, flags: dict[str, Any], *, details: bool = False) -> int:
    """Read all rows and say what recording them would do. Needs neither broker nor database nor model.

    With `details` also which columns are read, and where the first images are.
    """
    survey = source.survey()
    check(request, survey)
    wanted = survey.rows if request.limit is None else min(request.limit, survey.rows)
    rejected, first = _read_rows(source, request, wanted)
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
    if flags["json"]:
        left_out = [asdict(one) for one in source.left_out]
        more = {"first": first, "left_out": left_out, **source.named_columns} if details else {}
        base.print_json(facts | {"dry_run": True} | more)
    else:
        prompts = json.dumps(request.prompts, ensure_ascii=False)
        click.echo(f"would record {told(facts, Recorded(0, wanted, 0), source.kind)}; prompts: {prompts}")
        _tell_rows(source if details else None, rejected, first)
    return exit_code(len(rejected), wanted, flags["max_failures"], flags["exit_zero"])


def _read_rows(source: RowSource, request: RunRequest, wanted: int) -> tuple[list[str], list[str]]:
    """Why rows are rejected, and where the first good images are."""
    rejected: list[str] = []
    first: list[str] = []
    with Meter(f"checking {request.name}", "rows") as meter:
        for number, row in enumerate(islice(source.rows(), wanted), start=1):
            if row.rejected:
                rejected.append(row.rejected[1])
            elif len(first) < FIRST_PATHS:
                first.append(location.absolute(location.place(str(source.root), row.path)))
            if number % 1000 == 0 or number == wanted:
                meter.tell(number, wanted)
    return rejected, first


def _tell_rows(source: RowSource | None, rejected: list[str], first: list[str]) -> None:
    if source is not None:
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
