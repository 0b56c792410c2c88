"""Records a run from a file that names images, and rings its first chunks. Knows no flags but by their names."""

from pathlib import Path
from typing import Any

import click

from db.session import Sessions, read
from db.views.status import ImageCounts, Progress, progress
from producer.cli.asked import open_input, run_request
from producer.cli.dry_run import report_dry_run, told
from producer.cli.options import exit_code, read_prompts, run_name
from producer.cli.progress import Meter
from producer.cli.redo import take_up
from producer.results.targets import free_file
from producer.runs.load import Recorded, RunRequest, record
from producer.sources.kinds import open_file
from producer.sources.source import RowSource
from workers.broker.app import create_app
from workers.broker.connection import check_broker
from workers.cli import base
from workers.cli.base import say
from workers.fleet.dispatch import dispatch, publisher


def enqueue(csv: Path, dry_run: bool, flags: dict[str, Any]) -> int:
    """Record and queue, or check; returns the exit code of the command."""
    prompts = read_prompts(flags["prompt"])
    source = open_input(open_file, csv, prompts, flags)
    settings = base.settings(model=flags["model"])
    request = run_request(run_name(flags["run"], flags["moved_from"] or csv), prompts, source, settings, flags)
    warn_of_absent_model(request.frozen.model)
    if dry_run:
        return report_dry_run(source, request, flags)
    sessions = base.open_database(settings.database_url, create=True)
    app = create_app(base.identified(settings, sessions))
    for warning in check_broker(app):
        say(f"warning: {warning}")
    recorded = record_rows(sessions, source, request)
    again = take_up(sessions, recorded.run_id, flags)
    if recorded.corrected:
        say(recorded.corrected)
    now = read(sessions, progress, recorded.run_id)
    queued = dispatch(sessions, publisher(app), [recorded.run_id])
    facts = facts_of(now, queued) | {"gone": now.images.gone} | again
    rejected = now.images.rejected if recorded.new_rows else 0  # those of an earlier time were told then
    if flags["json"]:
        base.print_json(facts)
    else:
        click.echo(told(facts, recorded, source.kind))
        tell_next(request.name, rejected, now.images)
    return exit_code(rejected, now.images.total, flags["max_failures"], flags["exit_zero"])


def record_rows(sessions: Sessions, source: RowSource, request: RunRequest) -> Recorded:
    """Bring the database up to what the source says, and show how far that is."""
    with Meter(f"recording {request.name}", "rows") as meter:
        return record(sessions, source, request, meter.tell)


def facts_of(now: Progress, queued: int) -> dict[str, Any]:
    """What there is of the run by now, as it is told and printed; `queued` chunks were rung just now."""
    images = now.images
    return {
        "run": now.run,
        "images": images.total,
        "chunks": sum(now.chunks.values()),
        "queued": queued,
        "already_done": images.segmented + images.empty + images.failed,
        "duplicates": images.duplicate,
        "rejected": images.rejected,
        "cancelled": images.cancelled,
    }


def tell_next(name: str, rejected: int, images: ImageCounts) -> None:
    if rejected:
        say("Rejected rows: the same command with --dry-run names them")
    run = base.spelled_run(name)
    if images.pending:
        say(f"Next: sam3-status {run} --watch")
    elif images.cancelled:
        say(f"Next: sam3-retry {run}")
    elif images.segmented + images.empty + images.failed:
        say(f"Next: sam3-export {run} --format csv -o {free_file(f'{name}-results', '.csv')}")


def warn_of_absent_model(model: str) -> None:
    """A path says where the model is; that this machine does not have it need not mean that no worker does."""
    folder = Path(model).expanduser()
    if folder.is_absolute() and not folder.is_dir():
        say(f"warning: model {model}: no such folder on this machine; the workers need it under this path")
