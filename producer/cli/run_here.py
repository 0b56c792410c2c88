"""A whole run on this machine: source, broker, nodes, results. Knows the flags by their names only."""

import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from db import doorbells, private
from db.models import WorkerState
from db.patience import Patience
from db.runs import RetryFilter
from db.session import DatabaseUnusable, Sessions, connect, read, sqlite_url, write
from db.views.status import run_names
from producer.cli.asked import open_input, run_request
from producer.cli.dry_run import report_dry_run
from producer.cli.exported import interruptible, telling_how_to_go_on, view_of
from producer.cli.found import Found
from producer.cli.options import exit_code, read_prompts, run_name
from producer.cli.progress import Meter
from producer.cli.recording import record_rows
from producer.cli.redo import take_up, without_redo
from producer.cli.run_folder import (
    COMMAND,
    RUN_LOCK,
    check_targets,
    hints,
    is_run_folder,
    read_run_file,
    refuse_other_run,
    refuse_other_runs_state,
    run_of_folder,
    write_run_file,
)
from producer.cli.run_results import following, write_files
from producer.layout import DATABASE_FILE, STATE_FOLDER
from producer.results.inputs import Inputs
from producer.results.status import Standing, duration, told_errors, told_warnings
from producer.results.targets import Targets, free_file
from producer.runs.load import RunRequest
from producer.runs.operate import retry
from producer.slugs import prompt_slugs
from producer.sources.kinds import open_source
from producer.sources.selection import told_left_out
from producer.sources.source import RowSource
from workers.broker.app import create_app
from workers.broker.connection import Doorbells
from workers.cli import base
from workers.cli.base import RUN_FILE, counted, say
from workers.cli.config_file import FIRST_SOURCE, SLUGS
from workers.cli.worker import node_settings
from workers.errors import Unreachable, UsageError
from workers.fleet.dispatch import publisher
from workers.fleet.gpus import Slot, choose_slots
from workers.fleet.launcher import Launcher
from workers.fleet.reconcile import Reconciler
from workers.fleet.supervise import supervise
from workers.fleet.valkey import BundledBroker
from workers.fleet.weights import check_models
from workers.settings import Settings

POLL_SECONDS = (0.1, 0.5)  # between two looks at the run, the longer the more a look costs
LOOKING_SHARE = 0.1  # of the time, at most
LAST_WORDS_SECONDS = 2.0  # for nodes to log and report after the last commit, before they are ended
SLUGS_AT_MOST = 1000  # in run.yaml: rows may bring any number of prompts
KEPT_FLAGS = (  # those that run.yaml repeats as they were given
    "image_column",
    "prompt_column",
    "encoding",
    "delimiter",
    "follow_symlinks",
    "chunk_size",
    "limit",
    "no_check",
    "gpus",
    "num_gpus",
    "select",
)


def run(path: Path, output: Path, flags: dict[str, Any]) -> int:
    """Segment the source; returns the exit code of the command."""
    prompts = read_prompts(flags["prompt"])
    source = open_input(open_source, path, prompts, flags | {"output": output})
    settings = node_settings(**flags | {"state_dir": flags["state_dir"] or output / STATE_FOLDER})
    name = run_of_folder(output, flags["run"], source.path)
    name = name or run_name(flags["run"], flags["moved_from"] or source.path)
    request = run_request(name, prompts, source, settings, flags)
    refuse_other_run(output, request.name, source.path, flags["state_dir"])
    check_targets(Targets(output, Inputs(sources=[(request.name, source.path)]), force=flags["force"]))
    if flags["dry_run"]:
        return report_dry_run(source, request, flags, details=True)
    with new_folders(output, settings.state_dir), interruptible(resumes=True), only_one(settings.state_dir):
        check_models([settings.model], settings)  # its licence first: nothing works without it
        slots = local_slots(flags["gpus"], flags["num_gpus"])
        database = sqlite_url(settings.state_dir / DATABASE_FILE)
        broker = BundledBroker(settings.state_dir / "broker")
        settings = settings.model_copy(update={"database_url": database, "broker_url": broker.url})
        patience = Patience(settings.patience_seconds, say)
        sessions = base.open_database(database, create=True, run_file=output / RUN_FILE, patience=patience)
        settings = base.identified(settings, sessions)
        if not flags["state_dir"]:
            refuse_other_runs_state(sessions, output, request.name)
        shared = bool(flags["state_dir"])
        request = replace(request, **asdict(hints(sessions, output, request.name, database, shared=shared)))
        found = record_run(sessions, source, request, settings, output, flags)
        before, began = ended_images(Standing(sessions, found.run_id)), time.monotonic()
        asked = work_off(found, broker, slots, following(found, flags["select"], force=flags["force"]))
        return finish(found, flags, asked, Spent(time.monotonic() - began, before), source)


def local_slots(gpus: str, count: int | None) -> list[Slot]:
    """The GPUs asked for; the CPU where there is none and none was named."""
    try:
        return choose_slots(gpus, count)
    except UsageError as error:
        if gpus != "all":
            raise
        say(f"{str(error).partition(';')[0]}: using the CPU, which is slow with a full-size model")
        return choose_slots("cpu", None)


@contextmanager
def new_folders(output: Path, state_dir: Path) -> Iterator[None]:
    """Make both, and take away again what was made if the command fails before it has recorded a run."""
    new = [folder for folder in (output, *output.parents) if not folder.exists()]
    make_folders(output, state_dir)
    try:
        yield
    except Exception:
        if new and not (output / RUN_FILE).exists() and not _has_runs(output / STATE_FOLDER / DATABASE_FILE):
            shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
            with suppress(OSError):  # somebody put something there meanwhile
                for folder in new:
                    folder.rmdir()
        raise


def _has_runs(database: Path) -> bool:
    if not database.is_file():
        return False
    try:
        return bool(read(connect(sqlite_url(database), create=False), run_names))
    except (SQLAlchemyError, DatabaseUnusable):  # who knows what it is: it stays
        return True


def make_folders(output: Path, state_dir: Path) -> None:
    """Results may be for others, too; the state is not."""
    for folder in (output, state_dir):
        try:
            private.make_folder(folder) if folder == state_dir else folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(f"{folder}: cannot write there: {error.strerror}; choose another folder") from None


class only_one:
    """Refuse a second sam3-run with the same state."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self._lock = FileLock(private.make_file(state_dir / RUN_LOCK))

    def __enter__(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"another sam3-run works with {self._folder}; wait for it, or use others for -o and --state-dir"
            ) from None

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def record_run(
    sessions: Sessions, source: RowSource, request: RunRequest, settings: Settings, output: Path, flags: dict[str, Any]
) -> Found:
    """Bring the run in the folder's database up to the source, and write down how it was made."""
    recorded = record_rows(sessions, source, request)
    if recorded.corrected:
        say(recorded.corrected)
    if source.left_out:  # now, not only at the end, which may be days away
        say(f"left out: {told_left_out(source.left_out)}")
    found = Found(sessions, recorded.run_id, request.name, settings, output)
    if flags["retry_failed"]:
        say(f"{counted(retry(sessions, recorded.run_id, RetryFilter()), 'image')} to try again")
    take_up(sessions, recorded.run_id, flags)
    if recorded.gone_rows:
        gone = f"{counted(recorded.gone_rows, 'row')} no longer in {source.path.name}"
        say(f"{gone}: kept in the database, left out of the results")
    effective = {
        "source": str(source.path),
        "output": str(output.absolute()),
        "run": request.name,
        FIRST_SOURCE: read_run_file(output).moved_to(source.path) if is_run_folder(output) else None,
        "prompt": list(request.prompts),
        **asdict(request.frozen),
        **{key: flags[key] for key in KEPT_FLAGS},
        "image_root": str(source.root) if source.confined else None,
        "batch_size": settings.batch_size,
        "dtype": settings.dtype,
        "grace": settings.grace,
        "state_dir": str(settings.state_dir) if flags["state_dir"] else None,  # else it moves with the folder
        SLUGS: dict(islice(prompt_slugs(view_of(found).prompts.values()).items(), SLUGS_AT_MOST)),
    }
    kept = {key: value for key, value in effective.items() if value is not None}
    write_run_file(Targets(output, force=flags["force"]), output, kept)
    return found


def work_off(
    found: Found, broker: BundledBroker, slots: list[Slot], following: AbstractContextManager[object]
) -> signal.Signals | None:
    """Run broker, nodes and reconciler until the run is over; return the signal that stopped it earlier.

    Meanwhile `following` keeps up with what is committed.
    """
    if Standing(found.sessions, found.run_id).over:
        return None
    settings = found.settings
    write(found.sessions, doorbells.forget_doorbells)  # our broker is a new one each time
    broker.start()
    try:
        app = create_app(settings)
        launcher = Launcher(settings, slots, say, log_folder=settings.state_dir / "logs")
        reconciler = Reconciler(found.sessions, publisher(app), Doorbells(app, settings.lease_seconds), settings)
        with Meter(f"segmenting {found.name} on {', '.join(slot.name for slot in slots)}", "images") as meter:
            watch = Watch(found, launcher, meter)
            with following:
                return supervise(launcher, reconciler, settings.grace, watch.over, say)
    finally:
        broker.stop()


class Watch:
    """Looks at the run now and then while it is worked off, shows it, and notices when it cannot go on."""

    def __init__(self, found: Found, launcher: Launcher, meter: Meter) -> None:
        self._found, self._launcher, self._meter = found, launcher, meter
        self._next = 0.0
        self._over_since: float | None = None

    def over(self) -> bool:
        if time.monotonic() < self._next:
            return False
        began = time.monotonic()
        standing = Standing(self._found.sessions, self._found.run_id, "its nodes are starting", starting=True)
        ended = time.monotonic()
        self._next = ended + min(max(POLL_SECONDS[0], (ended - began) / LOOKING_SHARE), POLL_SECONDS[1])
        images = standing.progress.images
        total = images.total - images.duplicate - images.rejected
        self._meter.tell(
            total - images.pending, total, standing.one_line(), standing.waiting_for(), standing.told_facts()
        )
        if standing.over:
            return self._may_end(standing)
        logs = self._found.settings.state_dir / "logs"
        if self._launcher.failing():
            raise Unreachable(f"the nodes end right after they start: see {logs}")
        run, workers = standing.progress.run, standing.workers
        if workers and all(worker.state == WorkerState.DECLINED and worker.run == run for worker in workers):
            raise Unreachable(f"run {run} cannot be served: {workers[0].message}")
        return False

    def _may_end(self, standing: Standing) -> bool:
        """End the nodes at once when the run is over and none works any more: nothing of ours is left to hand back, and
        Celery takes a second for that."""
        self._over_since = self._over_since or time.monotonic()
        works = any(worker.state == WorkerState.RUNNING for worker in standing.workers)
        if works and time.monotonic() - self._over_since < LAST_WORDS_SECONDS:
            return False
        self._launcher.kill()
        return True


@dataclass(frozen=True)
class Spent:
    """How long this sitting took, and how many images earlier ones had ended."""

    seconds: float
    images_before: int


def ended_images(standing: Standing) -> int:
    images = standing.progress.images
    return images.segmented + images.empty + images.failed


def finish(
    found: Found,
    flags: dict[str, Any],
    asked: signal.Signals | None,
    spent: Spent,
    source: RowSource,
) -> int:
    """Write the files and the summary of a run that is over; of a stopped one only say how to go on."""
    standing = Standing(found.sessions, found.run_id)
    if not standing.over:
        say(standing.one_line(waiting=False))
        say("Next: the same command again goes on from here")
        return 1 if asked is None else 128 + asked
    with telling_how_to_go_on(found, None):
        written, whole = write_files(found, flags["select"], force=flags["force"])
    images = standing.progress.images
    if flags["json"]:
        facts = {
            "seconds": round(spent.seconds, 1),
            "files": written,
            "left_out": [asdict(one) for one in source.left_out],
        }
        base.print_json(standing.as_json() | facts)
    else:
        summarise(standing, spent, written, source.path)
        if standing.worth_a_retry:
            given = [argument for argument in without_redo(sys.argv[1:]) if argument != "--retry-failed"]
            say(f"Next: {shlex.join([COMMAND, *given, '--retry-failed'])}")
        elif not images.segmented + images.empty + images.failed:
            say("Next: the same command with --dry-run names the rejected rows; correct them, then run it again")
        else:
            say(f"Next: sam3-export {found.argument} --format coco -o {free_file(f'{found.folder}/coco', '.json')}")
    failures = exit_code(standing.shortfall, images.total, flags["max_failures"], flags["exit_zero"])
    return failures if whole else max(1, failures)


def summarise(standing: Standing, spent: Spent, written: dict[str, str], source: Path) -> None:
    progress, images = standing.progress, standing.progress.images
    now = ended_images(standing) - spent.images_before
    speed = f" ({now / spent.seconds:.1f} images/s)" if spent.seconds > 1 else ""
    some = f"{counted(now, 'image')} of " if spent.images_before or images.cancelled else ""
    rows = counted(images.total - images.gone, "image")
    worked = f"{some}{rows} in {duration(spent.seconds)}{speed}"
    if now <= 0:
        worked = rows + ("" if images.cancelled else ", nothing left to do")
    cancelled = f"cancelled with {counted(images.cancelled, 'image')} to go; " if images.cancelled else ""
    click.echo(f"run {progress.run}: {cancelled}{worked}")
    parts = [f"{images.segmented:,} segmented", f"{images.empty:,} empty"]
    parts += [
        f"{getattr(images, name):,} {name}"
        for name in ("failed", "cancelled", "duplicate", "rejected")
        if getattr(images, name)
    ]
    click.echo(f"  {', '.join(parts)}; {counted(progress.instances, 'instance')}{standing.told_capped()}")
    if images.gone:
        gone = f"{counted(images.gone, 'row')} of these no longer in {base.printable(source.name)}"
        click.echo(f"  gone: {gone}, so not in the results")
    if standing.errors:
        click.echo(f"  errors: {told_errors(standing.errors)}")
    if standing.warnings:
        click.echo(f"  warnings: {told_warnings(standing.warnings)}")
    for name, path in written.items():
        click.echo(f"  {name:<8} {path}")
