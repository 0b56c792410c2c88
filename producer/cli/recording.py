"""Records a run from a file that names images, and rings its first chunks. Knows the flags by their names only."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from db.session import Sessions, read, write
from db.steering import steer
from db.views.status import ImageCounts, Progress, progress
from producer.cli.at_hand import at_hand
from producer.cli.dry_run import report_dry_run, told
from producer.cli.flags.options import asked_prompts, exit_code, run_name, steered
from producer.cli.flags.prompt_flags import tell_change, tell_cost
from producer.cli.flags.redo import take_up
from producer.cli.progress import Meter
from producer.cli.run_request import open_input, run_request
from producer.results.files.targets import free_file
from producer.runs.load import Recorded, record
from producer.runs.request import RunRequest
from producer.sources.selection import told_left_out
from producer.sources.source import RowSource
from workers.broker.app import create_app
from workers.broker.connection import check_broker
from workers.cli import base, opening
from workers.cli.base import say
from workers.fleet.dispatch import dispatch, publisher
from workers.fleet.weights import parts


def enqueue(given: str, dry_run: bool, flags: dict[str, Any]) -> int:
    """Record the source at the place `given`, or what is piped in, as `_enqueue` does. Raises `Sam3Error`."""
    with at_hand(given, base.settings().state_dir, flags["run"], keep=not dry_run) as (source, changes):
        return _enqueue(source, dry_run, flags | changes)


def _enqueue(given: str, dry_run: bool, flags: dict[str, Any]) -> int:
    """Record the source at a place and queue its chunks, or only check it; return the exit code. Raises `Sam3Error`."""
    prompts = asked_prompts(flags)
    source = open_input(given, prompts, flags)
    settings = base.settings(model=flags["model"], image_hosts=flags["image_hosts"])
    request = run_request(run_name(flags["run"], source.place, flags["moved_from"]), prompts, source, settings, flags)
    warn_of_absent_model(request.frozen.model)
    if dry_run:
        code = report_dry_run(source, request, settings.database_url, flags)
        if not flags["json"]:
            click.echo("not checked: the broker; the model, which the workers load")
        return code
    sessions = opening.open_database(settings.database_url, create=True)
    app = create_app(opening.identified(settings, sessions))
    for warning in check_broker(app):
        say(f"warning: {warning}")
    announce = partial(tell_cost, settings.database_url, request, flags["gpu_hour_price"])
    recorded = record_rows(sessions, source, replace(request, announce=announce))
    tell_change(recorded, request)
    if changes := steered(flags, "priority", "share"):
        write(sessions, partial(steer, **changes), recorded.run_id)
    again = take_up(sessions, recorded.run_id, flags)
    if recorded.corrected:
        say(recorded.corrected)
    now = read(sessions, progress, recorded.run_id)
    queued = dispatch(sessions, publisher(app), [recorded.run_id])
    facts = facts_of(now, queued) | {"gone": now.images.gone} | again | {"adding": recorded.adding}
    rejected = now.images.rejected if recorded.new_rows else 0  # without new rows an earlier command reported them
    if flags["json"]:
        base.print_json(facts)
    else:
        click.echo(told(facts, recorded, source.kind))
        tell_next(request.name, rejected, now.images, now.paused)
    return exit_code(rejected, now.images.total, flags["max_failures"], flags["exit_zero"])


def record_rows(sessions: Sessions, source: RowSource, request: RunRequest) -> Recorded:
    """Record the source's rows that the run does not have yet, and show the progress."""
    with Meter(f"recording {request.name}", "rows") as meter:
        recorded = record(sessions, source, request, meter.tell)
    if source.left_out:  # told now, as the end of the run may be days away
        say(f"left out: {told_left_out(source.left_out)}")
    return recorded


def facts_of(now: Progress, queued: int) -> dict[str, Any]:
    """The numbers of the run that are printed, also as JSON. `queued` is how many chunks this command rang."""
    images = now.images
    return {
        "run": now.run,
        "images": images.total,
        "chunks": sum(now.chunks.values()),
        "queued": queued,
        "already_done": images.ended,
        "duplicates": images.duplicate,
        "rejected": images.rejected,
        "cancelled": images.cancelled,
    }


def tell_next(name: str, rejected: int, images: ImageCounts, paused: str | None) -> None:
    """Say which command the user may want next."""
    if rejected:
        say("Rejected rows: the same command with --dry-run says why")
    run = base.spelled_run(name)
    if images.pending and paused:
        say(f"the run is paused {paused}")
        say(f"Next: sam3-resume {run}")
    elif images.pending:
        say(f"Next: sam3-status {run} --watch")
    elif images.cancelled:
        say(f"Next: sam3-retry {run}")
    elif images.ended:
        say(f"Next: sam3-export {run} --format csv -o {free_file(f'{name}-results', '.csv')}")


def warn_of_absent_model(model: str) -> None:
    """Warn of a folder of the model that this machine does not have. The workers' machines may have it."""
    for part in parts(model):
        folder = Path(part).expanduser()
        if folder.is_absolute() and not folder.is_dir():
            say(f"warning: model {part}: no such folder on this machine; the workers need it under this path")
