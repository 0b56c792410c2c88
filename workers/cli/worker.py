"""What `sam3-worker` does: it runs nodes and a reconciler until they must end. Knows the flags by their names only."""

import os
import shlex
import signal
import time
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from db.patience import Patience
from db.session import Sessions, parse_url, read, reading
from db.views import run_views
from workers.broker.app import create_app
from workers.broker.connection import Doorbells, check_broker
from workers.cli import base, opening
from workers.cli.base import say
from workers.errors import Sam3Error
from workers.fleet.dispatch import publisher
from workers.fleet.gpus import choose_slots
from workers.fleet.launcher import Launcher
from workers.fleet.reconcile import Reconciler
from workers.fleet.supervise import supervise
from workers.fleet.weights import check_models
from workers.settings import Settings, masked

WAITING_LINE_SECONDS = 60.0


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

    over = EmptyQueue(sessions).over if until_empty else never
    launcher = Launcher(settings, slots, say)
    reconciler = Reconciler(sessions, publisher(app), Doorbells(app, settings.lease_seconds), settings)
    asked = supervise(launcher, reconciler, settings.grace, over, say)
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
    """Notices that no run has work left, and says every minute which runs have."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._next_line = time.monotonic() + WAITING_LINE_SECONDS

    def over(self) -> bool:
        try:
            with reading(self._sessions) as session:
                unfinished = run_views.unfinished_runs(session)
        except SQLAlchemyError:  # the database is away: the reconciler says so, and the command waits
            return False
        if unfinished and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + WAITING_LINE_SECONDS
            say(f"not done yet: {', '.join(unfinished)}; sam3-status RUN tells more")
        return not unfinished


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
