"""What `sam3-worker` does: it runs nodes and a reconciler until they must end. Knows the flags by their names only."""

import os
import shlex
import signal
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from db.patience import Patience
from db.session import Sessions, parse_url, read, reading
from db.states import WorkerState
from db.views import run_views, status
from db.views.status import WorkerLine
from workers.broker.app import create_app
from workers.broker.connection import Doorbells, check_broker
from workers.cli import base, opening
from workers.cli.base import say
from workers.errors import Sam3Error, Unreachable
from workers.fleet.dispatch import publisher
from workers.fleet.gpus import choose_slots
from workers.fleet.launcher import Launcher
from workers.fleet.processes import this_process
from workers.fleet.reconcile import Reconciler
from workers.fleet.supervise import supervise
from workers.fleet.weights import check_models
from workers.settings import Settings, masked

WAITING_LINE_SECONDS = 60.0
LOOK_SECONDS = 0.5  # between two looks at the runs; a refusal of a run is shown for longer
# How long --until-empty waits when only runs are left that are declined here: in this time a model that could not be
# loaded is tried twice, as the cause may have been the network or another process on the GPU.
DECLINED_SECONDS = 600.0


def serve(until_empty: bool, flags: dict[str, Any]) -> int:
    """Run nodes and a reconciler; return the exit code of the command. Raises `Sam3Error`."""
    slots = choose_slots(flags["gpus"], flags["num_gpus"], say)
    settings = node_settings(**flags)
    patience = Patience(settings.patience_seconds, say)
    sessions = opening.open_database(settings.database_url, connections=1, create=True, patience=patience)
    settings = opening.identified(settings, sessions)
    app = create_app(settings)
    for warning in check_broker(app):
        say(f"warning: {warning}")
    check_runs(sessions, settings)
    say(f"{', '.join(slot.name for slot in slots)}: batches of {settings.batch_size}, {masked(settings.broker_url)}")

    queue = EmptyQueue(sessions)
    launcher = Launcher(settings, slots, say)
    reconciler = Reconciler(sessions, publisher(app), Doorbells(app, settings.lease_seconds), settings)
    asked = supervise(launcher, reconciler, settings.grace, queue.over if until_empty else never, say)
    if not asked and queue.declined:
        raise Unreachable(f"nothing is left to do that can be done here: {queue.told_declined()}")
    say("stopped; what was in hand is committed or back in the queue" if asked else _nothing_left(sessions))
    return 0 if asked in (None, signal.SIGTERM) else 128 + asked  # by SIGTERM a service is stopped, which is no failure


def node_settings(**flags: Any) -> Settings:
    """The settings of a command that starts nodes. Its paths are absolute, as nodes have another working folder."""
    names = ("batch_size", "dtype", "compile", "grace", "state_dir", "model", "allow_control", "image_hosts")
    settings = base.settings(**{name: flags.get(name) for name in names})
    paths = {"state_dir": settings.state_dir.absolute(), "database_url": absolute_sqlite(settings.database_url)}
    return settings.model_copy(update=paths)


def absolute_sqlite(url: str) -> str:
    """The URL of an SQLite file with an absolute path; other URLs are unchanged. Raises `DatabaseUnusable`."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    return parsed.set(database=os.path.abspath(parsed.database)).render_as_string()


class EmptyQueue:
    """Notices that no run has work left, or only runs that this machine's workers decline. Says every minute which runs
    have."""

    def __init__(self, sessions: Sessions) -> None:
        self.declined: dict[str, str] = {}  # unfinished run -> why it is declined; empty unless all of them are
        self._sessions = sessions
        self._here = f"@{this_process().host}"
        self._reasons: dict[str, str] = {}  # run -> why a worker of this machine declined it last
        self._declined_since = 0.0
        self._next_look = 0.0
        self._next_line = time.monotonic() + WAITING_LINE_SECONDS

    def over(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        try:
            with reading(self._sessions) as session:
                unfinished = run_views.unfinished_runs(session)
                workers = status.workers(session) if unfinished else []
        except SQLAlchemyError:  # the database is away: the reconciler says so, and the command waits
            return False
        if unfinished and now > self._next_line:
            self._next_line = now + WAITING_LINE_SECONDS
            say(f"not done yet: {', '.join(unfinished)}; sam3-status RUN tells more")
        self._note(workers)
        before, self.declined = self.declined, {}
        if all(run in self._reasons for run in unfinished):
            self.declined = {run: self._reasons[run] for run in unfinished}
        if not before:
            self._declined_since = now
        return not unfinished or (bool(self.declined) and now - self._declined_since >= DECLINED_SECONDS)

    def told_declined(self) -> str:
        """Why each run that is left is declined, and what to do if it is not wanted."""
        cancels = {run: f"sam3-cancel {shlex.quote(base.spelled_run(run))}" for run in self.declined}
        return "; ".join(
            f"run {run} cannot be served here: {why}; {cancels[run]} if it is not wanted"
            for run, why in self.declined.items()
        )

    def _note(self, workers: Sequence[WorkerLine]) -> None:
        """Note which runs workers of this machine decline. A worker tells only of the last run that it was offered."""
        for worker in workers:
            if worker.run is None or not worker.node.endswith(self._here):
                continue
            if worker.state == WorkerState.DECLINED:
                self._reasons[worker.run] = worker.message or "it is declined"
            elif worker.state == WorkerState.RUNNING:
                self._reasons.pop(worker.run, None)


def _nothing_left(sessions: Sessions) -> str:
    """What is said at the end of --until-empty. Paused runs are not waited for, so they are named."""
    resumes = [f"sam3-resume {shlex.quote(base.spelled_run(name))}" for name in read(sessions, run_views.paused_runs)]
    return "nothing left to do" + (f" until a run goes on that is paused: {', '.join(resumes)}" if resumes else "")


def never() -> bool:
    """Says that the work is not over, for a command that ends by a signal only."""
    return False


def check_runs(sessions: Sessions, settings: Settings) -> None:
    """Download the models of unfinished runs if needed, and warn of each run whose model cannot be had here.

    If no unfinished run can be served, raises the `UsageError` or `Unreachable` of the first one with its run's name.
    """
    check_models([], settings)
    runs = read(sessions, run_views.active_models)
    faults: dict[str, Sam3Error] = {}
    for model in dict.fromkeys(model for _, model in runs):
        try:
            check_models([model], settings)
        except Sam3Error as error:
            faults[model] = error
    declined = [
        type(fault)(
            f"run {name} cannot be served here: {fault}; sam3-cancel {base.spelled_run(name)} if it is not wanted"
        )
        for name, model in runs
        if (fault := faults.get(model)) is not None
    ]
    if declined and len(declined) == len(runs):
        raise declined[0]
    for warning in declined:
        say(f"warning: {warning}")
