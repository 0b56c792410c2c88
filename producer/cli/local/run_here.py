"""Does a whole run on this machine: source, broker, nodes, results. Knows the flags by their names only."""

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from db.patience import Patience
from db.session import Sessions, sqlite_url
from producer.cli.at_hand import STANDARD_INPUT, at_hand
from producer.cli.dry_run import report_dry_run
from producer.cli.exported import interruptible
from producer.cli.flags.options import asked_prompts, run_name
from producer.cli.local.run_record import record_run
from producer.cli.local.run_results import following
from producer.cli.local.run_summary import Spent, finish
from producer.cli.local.run_work import local_slots, work_off
from producer.cli.local.workplace import StateLock, new_folders, refuse_unwritable, taken
from producer.cli.run_folder import (
    check_targets,
    hints,
    is_at_work,
    is_run_folder,
    read_run_file,
    refuse_other_run,
    refuse_other_runs_state,
    run_of_folder,
)
from producer.cli.run_request import open_input, run_request
from producer.layout import DATABASE_FILE, STATE_FOLDER
from producer.results.files.inputs import Inputs
from producer.results.files.targets import Targets
from producer.results.status import Standing
from producer.runs.request import RunRequest
from producer.sources import place
from workers.cli import opening
from workers.cli.base import RUN_FILE, say
from workers.cli.worker import node_settings
from workers.fleet.gpus import Slot
from workers.fleet.valkey import BundledBroker
from workers.fleet.weights import model_folders, reachable_folders, require_torch
from workers.inference.segmenters import family_name
from workers.settings import Settings


def run(given: str, output: Path, flags: dict[str, Any]) -> int:
    """Segment the source at the place `given`, or what is piped in; return the exit code. Raises `Sam3Error`."""
    settings = node_settings(**flags | {"state_dir": flags["state_dir"] or output / STATE_FOLDER})
    keep = not flags["dry_run"]
    there = read_run_file(output).run if given == STANDARD_INPUT and is_run_folder(output) else None
    is_here = given != STANDARD_INPUT and not place.is_url(given)  # else it may be kept in the state folder
    folders = new_folders(output, settings.state_dir) if keep and not is_here else nullcontext()
    with folders, at_hand(given, settings.state_dir, flags["run"] or there, keep=keep) as (source, changes):
        return _run(source, output, settings, flags | changes)


def _able(settings: Settings, request: RunRequest, flags: dict[str, Any]) -> list[Slot]:
    """The slots of this machine for the run. With --dry-run nothing is downloaded.

    Raises `Sam3Error` if the run cannot be computed here: without torch, the model or its licence, or a GPU that was
    named.
    """
    if settings.segmenter is None:  # a stand-in has no weights
        require_torch()
        folders = (reachable_folders if flags["dry_run"] else model_folders)(settings.model)
        if folders is None:
            say(f"model {settings.model}: would be downloaded first; not checked: what is in it")
        else:
            family_name(*folders, everything=request.frozen.looks_for_everything)
    return local_slots(flags["gpus"], flags["num_gpus"])


def _fit(sessions: Sessions, request: RunRequest, *, output: Path, database: str, shared: bool) -> RunRequest:
    """The request with what to advise in this folder. Raises `UsageError` if its database is another run's.

    `shared`: the user named its state folder, which may have runs of other output folders.
    """
    if not shared:
        refuse_other_runs_state(sessions, output, request.name)
    return replace(request, **asdict(hints(sessions, output, request.name, database, shared=shared)))


def _run(given: str, output: Path, settings: Settings, flags: dict[str, Any]) -> int:
    prompts = asked_prompts(flags)
    source = open_input(given, prompts, flags | {"output": output})
    name = run_of_folder(output, flags["run"], source.place)
    name = name or run_name(flags["run"], source.place, flags["moved_from"])
    request = run_request(name, prompts, source, settings, flags)
    refuse_other_run(output, request.name, request.place or source.place, flags["state_dir"])
    targets = Targets(output, Inputs(sources=[(request.name, source.place)]), force=flags["force"])
    check_targets(targets, flags["also"])
    database = sqlite_url(settings.state_dir / DATABASE_FILE)
    fit = partial(_fit, output=output, database=database, shared=bool(flags["state_dir"]))
    if flags["dry_run"]:
        refuse_unwritable(output, settings.state_dir)
        if is_at_work(settings.state_dir):
            raise taken(settings.state_dir)
        _able(settings, request, flags)
        return report_dry_run(source, request, database, flags, fit, output / RUN_FILE)
    with new_folders(output, settings.state_dir), interruptible(resumes=True), StateLock(settings.state_dir):
        slots = _able(settings, request, flags)  # first, as nothing works without the weights and their licence
        broker = BundledBroker(settings.state_dir / "broker")
        settings = settings.model_copy(update={"database_url": database, "broker_url": broker.url})
        patience = Patience(settings.patience_seconds, say)
        sessions = opening.open_database(database, create=True, run_file=output / RUN_FILE, patience=patience)
        settings = opening.identified(settings, sessions)
        found = record_run(sessions, source, fit(sessions, request), settings, output, flags)
        before, began = Standing(sessions, found.run_id).progress.images.ended, time.monotonic()
        asked = work_off(found, broker, slots, following(found, flags["select"], force=flags["force"]))
        return finish(found, flags, asked, Spent(time.monotonic() - began, before), source)
