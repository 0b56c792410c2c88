"""Runs broker, nodes and reconciler on this machine until a recorded run is over. Writes no results."""

import signal
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from db import doorbells
from db.session import write
from db.states import WorkerState
from producer.cli.found import Found
from producer.cli.progress import Meter
from producer.results.status import Standing
from workers.broker.app import create_app
from workers.broker.connection import Doorbells
from workers.cli.base import say
from workers.errors import Unreachable, UsageError
from workers.fleet.dispatch import publisher
from workers.fleet.gpus import Slot, choose_slots
from workers.fleet.launcher import Launcher
from workers.fleet.reconcile import Reconciler
from workers.fleet.supervise import supervise
from workers.fleet.valkey import BundledBroker
from workers.settings import default_state_dir

POLL_SECONDS = (0.1, 0.5)  # shortest and longest pause between two looks at the run; a slow look is made less often
LOOKING_SHARE = 0.1  # most of the time that is spent on looks
LAST_REPORT_SECONDS = 2.0  # for nodes to log and report after the last commit, before they are ended


def local_slots(gpus: str, count: int | None) -> list[Slot]:
    """The slots of the GPUs that the user asked for; the slot of the CPU if there is no GPU and none was named."""
    try:
        return choose_slots(gpus, count, say)
    except UsageError as error:
        if gpus != "all":
            raise
        say(f"{str(error).partition(';')[0]}: using the CPU, which is slow with a full-size model")
        return choose_slots("cpu", None, say)


def _compiled_folder(found: Found) -> Path | None:
    """Where compiled kernels are kept: not in the output folder, so that the next run finds them."""
    own = found.folder is not None and found.settings.state_dir.is_relative_to(found.folder.absolute())
    return default_state_dir() / "compiled" if own else None


def work_off(
    found: Found, broker: BundledBroker, slots: list[Slot], following: AbstractContextManager[object]
) -> signal.Signals | None:
    """Run broker, nodes and reconciler until the run is over or paused; return the signal that stopped it earlier.

    `following` is entered once the nodes start, and writes results that are committed.
    """
    if Standing(found.sessions, found.run_id).over:
        return None
    settings = found.settings
    write(found.sessions, doorbells.forget_doorbells)  # each sam3-run starts a new, empty broker
    broker.start()
    try:
        app = create_app(settings)
        launcher = Launcher(settings, slots, say, settings.state_dir / "logs", _compiled_folder(found))
        reconciler = Reconciler(found.sessions, publisher(app), Doorbells(app, settings.lease_seconds), settings)
        where = ", ".join(slot.name for slot in slots)
        with Meter(f"segmenting {found.name} on {where}", "images") as meter, ExitStack() as beside:
            watch = Watch(found, launcher, meter)
            follow = partial(beside.enter_context, following)
            return supervise(launcher, reconciler, settings.grace, watch.over, say, follow)
    finally:
        broker.stop()


class Watch:
    """Looks at the run now and then, shows its progress, and notices when it is over or cannot go on."""

    def __init__(self, found: Found, launcher: Launcher, meter: Meter) -> None:
        self._found, self._launcher, self._meter = found, launcher, meter
        self._next = 0.0
        self._over_since: float | None = None

    def over(self) -> bool:
        """Whether the run is over or paused. Raises `Unreachable` if no node can serve it."""
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
        if standing.progress.paused:
            return True
        logs = self._found.settings.state_dir / "logs"
        if self._launcher.failing():
            raise Unreachable(f"the nodes end right after they start: see {logs}")
        run, workers = standing.progress.run, standing.workers
        if workers and all(worker.state == WorkerState.DECLINED and worker.run == run for worker in workers):
            raise Unreachable(f"run {run} cannot be served: {workers[0].message}")
        return False

    def _may_end(self, standing: Standing) -> bool:
        """Kill the nodes when the run is over and no worker is busy. They hold no chunk, and a normal end of Celery
        takes a second longer."""
        self._over_since = self._over_since or time.monotonic()
        works = any(worker.state == WorkerState.RUNNING for worker in standing.workers)
        if works and time.monotonic() - self._over_since < LAST_REPORT_SECONDS:
            return False
        self._launcher.kill()
        return True
