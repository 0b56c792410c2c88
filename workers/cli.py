"""`sam3-worker`, `sam3-broker` and `sam3-flower`: thin edges of the fleet and of Flower."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from db import views
from db.session import Sessions, parse_url, reading
from workers import edge, flowerconfig
from workers.app import create_app
from workers.edge import say
from workers.errors import Sam3Error, UsageError
from workers.fleet.broker import BundledBroker, Doorbells, check_broker
from workers.fleet.dispatch import publisher
from workers.fleet.gpus import choose_slots
from workers.fleet.launcher import Launcher
from workers.fleet.reconcile import Reconciler
from workers.fleet.supervise import supervise
from workers.fleet.weights import check_models
from workers.settings import Settings, masked

Function = TypeVar("Function", bound=Callable[..., Any])
WAITING_LINE_SECONDS = 60.0
DTYPES = ["auto", "mixed", "fp32", "bf16"]


def worker_flags(function: Function) -> Function:
    """Flags of whatever starts nodes."""
    flags = [
        click.option("--gpus", default="all", metavar="all|0,1|cpu", show_default=True, help="Which GPUs to use."),
        click.option("--num-gpus", type=click.IntRange(min=1), metavar="N", help="Only N of them; with cpu, N nodes."),
        click.option(
            "--batch-size", type=click.IntRange(1, 256), metavar="N", help="Images of one forward (default 8)."
        ),
        click.option("--dtype", type=click.Choice(DTYPES), help="auto: mixed on a GPU, fp32 on a CPU."),
        click.option(
            "--grace", type=click.FloatRange(min=0), metavar="S", help="Seconds to finish a batch (default 60)."
        ),
    ]
    for flag in reversed(flags):
        function = flag(function)
    return function


def node_settings(**flags: Any) -> Settings:
    """The settings of a command that starts nodes, with absolute paths: nodes work in another folder."""
    settings = edge.settings(
        **{name: flags.get(name) for name in ("batch_size", "dtype", "grace", "state_dir", "model")}
    )
    paths = {"state_dir": settings.state_dir.absolute(), "database_url": absolute_sqlite(settings.database_url)}
    return settings.model_copy(update=paths)


def absolute_sqlite(url: str) -> str:
    """The URL with its file spelled from the root; that of a server as it is. Raises `DatabaseUnusable`."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    return parsed.set(database=os.path.abspath(parsed.database)).render_as_string()


class EmptyQueue:
    """Notices that no run has anything left to do, and says now and then which ones have."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._next_line = time.monotonic() + WAITING_LINE_SECONDS

    def over(self) -> bool:
        try:
            with reading(self._sessions) as session:
                unfinished = views.unfinished_runs(session)
        except SQLAlchemyError:  # away for now: the reconciler says so, and everybody waits for it
            return False
        if unfinished and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + WAITING_LINE_SECONDS
            say(f"not done yet: {', '.join(unfinished)}; sam3-status RUN tells more")
        return not unfinished


def never() -> bool:
    return False


def check_runs(sessions: Sessions, settings: Settings) -> None:
    """Have the models of unfinished runs here, and warn of each run whose model cannot be had.

    If that is every run there is, raises the first one's `UsageError` or `Unreachable` with the run's name.
    """
    check_models([], settings)
    with reading(sessions) as session:
        runs = views.active_models(session)
    faults: dict[str, Sam3Error] = {}
    for model in dict.fromkeys(model for _, model in runs):
        try:
            check_models([model], settings)
        except Sam3Error as error:
            faults[model] = error
    declined = [
        type(fault)(
            f"run {name} cannot be served here: {fault}; sam3-cancel {edge.spelled_run(name)} if it is not wanted"
        )
        for name, model in runs
        if (fault := faults.get(model)) is not None
    ]
    if declined and len(declined) == len(runs):
        raise declined[0]
    for warning in declined:
        say(f"warning: {warning}")


@edge.command("sam3-worker")
@worker_flags
@click.option("--until-empty", is_flag=True, help="End when no run has anything left to do.")
def worker(until_empty: bool, **flags: Any) -> int:
    """Serve runs: one supervised node per GPU. Ctrl-C finishes the batch in hand and gives the rest back."""
    slots = choose_slots(flags["gpus"], flags["num_gpus"])
    settings = node_settings(**flags)
    sessions = edge.open_database(settings.database_url, connections=1, create=True)
    settings = edge.identified(settings, sessions)
    app = create_app(settings)
    for warning in check_broker(app):
        say(f"warning: {warning}")
    check_runs(sessions, settings)
    say(f"{', '.join(slot.name for slot in slots)}: batches of {settings.batch_size}, {masked(settings.broker_url)}")

    over = EmptyQueue(sessions).over if until_empty else never
    launcher = Launcher(settings, slots, say)
    reconciler = Reconciler(sessions, publisher(app), Doorbells(app, settings.lease_seconds), settings)
    asked = supervise(launcher, reconciler, settings.grace, over, say)
    say("stopped; what was in hand is committed or back in the queue" if asked else "nothing left to do")
    return edge.INTERRUPTED if asked is signal.SIGINT else 0


@edge.command("sam3-broker")
@click.option("--port", type=click.IntRange(1, 65535), default=6379, show_default=True)
def broker(port: int) -> int:
    """Run the bundled Valkey server on this machine's loopback address until Ctrl-C."""
    settings = edge.settings()
    server = BundledBroker(settings.state_dir.absolute() / "broker", port)
    server.start()
    say(f"broker on {server.url}, its queue in {server.folder}")
    say("Next: sam3-worker in a second terminal, sam3-enqueue --csv FILE --prompt TEXT in a third")
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the server ends in order
        code = server.wait()
    except KeyboardInterrupt:
        say("stopped")
        return 0
    finally:
        server.stop()
    raise UsageError(f"the broker ended by itself with code {code}: see {server.folder / 'broker.log'}")


@edge.command("sam3-flower")
@click.option(
    "--address", default=flowerconfig.address, show_default=True, help="Beyond loopback: see FLOWER_BASIC_AUTH."
)
@click.option("--port", type=click.IntRange(1, 65535), default=flowerconfig.port, show_default=True)
def flower(address: str, port: int) -> int:
    """Show the traffic in Flower: nodes by GPU, a task for each chunk. Status itself is in sam3-status."""
    if address not in ("127.0.0.1", "::1", "localhost") and not os.environ.get("FLOWER_BASIC_AUTH"):
        raise UsageError(
            f"--address {address} is open to others: set FLOWER_BASIC_AUTH=user:password, or use 127.0.0.1"
        )
    settings = edge.settings()
    try:
        import flower as _installed  # noqa: F401 - only whether it is there
    except ImportError:
        raise UsageError("Flower is not installed: pip install 'sam3-queue[monitor]'") from None
    check_broker(create_app(settings))
    say(f"Flower on http://{address}:{port}")
    conf = f"--conf={Path(flowerconfig.__file__)}"
    celery = [sys.executable, "-P", "-m", "celery", "-A", "workers.node", "flower", conf]
    os.environ["SAM3_BROKER_URL"] = settings.broker_url
    os.environ.pop("FLOWER_PORT", None)  # ours is --port; a linked service called flower sets it to tcp://...
    home = settings.state_dir / "flower"  # Celery imports from the working folder first: not from the user's `db`
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(home)
    os.execv(sys.executable, [*celery, f"--address={address}", f"--port={port}"])
