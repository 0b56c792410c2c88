"""Keeping nodes going until the work is over or somebody asks to stop, with real signals to this process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from db.refusals import DatabaseUnusable
from sam3_start import STOP_SIGNALS
from tests.terminals import PATIENCE
from workers.errors import UsageError
from workers.fleet import launcher as module
from workers.fleet import supervise as supervising
from workers.fleet.gpus import Slot
from workers.fleet.launcher import Launcher
from workers.fleet.reconcile import Reconciler
from workers.fleet.supervise import supervise
from workers.settings import Settings

POLITE = "exec sleep 3600"
DEAF = "trap '' TERM; while :; do sleep 1; done"

Run = Callable[..., tuple[signal.Signals | None, float]]


class Idle:
    """A reconciler with nothing to do."""

    stopped = False
    fault: DatabaseUnusable | None = None

    def run(self, stop: threading.Event) -> None:
        stop.wait()
        self.stopped = True


class Stuck(Idle):
    """A reconciler whose database stands still, and it with it."""

    def run(self, stop: threading.Event) -> None:
        self.stopped = True
        threading.Event().wait()


class Refused(Idle):
    """A reconciler whose database was upgraded meanwhile."""

    def run(self, stop: threading.Event) -> None:
        self.fault = DatabaseUnusable("the database is newer")
        super().run(stop)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Supervise one node until it is over; return the signal that ended it and how long that took.

    What no test waits for takes an hour: that a test ends at all is the proof that it was not waited for.
    """

    def supervised(
        script: str,
        *signals: tuple[float, signal.Signals],
        grace: float = 3600,
        over: Callable[[], bool] = lambda: False,
        reconciler: type[Idle] = Idle,
    ) -> tuple[signal.Signals | None, float]:
        idle = reconciler()
        monkeypatch.setattr(module, "with_parent", lambda command: ["/bin/sh", "-c", script])
        launcher = Launcher(Settings(state_dir=tmp_path), [Slot("cpu0", None)], print)
        timers = [threading.Timer(delay, os.kill, (os.getpid(), number)) for delay, number in signals]
        for timer in timers:
            timer.start()
        began = time.monotonic()
        asked = supervise(launcher, cast(Reconciler, idle), grace, over, print)
        assert idle.stopped
        assert launcher.running() == 0
        return asked, time.monotonic() - began

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield supervised
    for number, handler in before.items():
        signal.signal(number, handler)


def test_it_ends_by_itself_when_the_work_is_over(run: Run) -> None:
    looks = iter([False, False, True])
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    asked, _ = run(POLITE, over=lambda: next(looks))
    assert asked is None
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_the_nodes_and_is_told(run: Run, number: signal.Signals) -> None:
    asked, _ = run(POLITE, (0.3, number))
    assert asked is number


def test_a_signal_too_many_does_not_kill_the_process_on_its_way_out(run: Run) -> None:
    run(POLITE, (0.3, signal.SIGTERM))
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_reconciler_whose_database_stands_still_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "LEAVE_SECONDS", 0.2)
    asked, _ = run(POLITE, (0.3, signal.SIGTERM), reconciler=Stuck)
    assert asked is signal.SIGTERM


def test_a_database_that_was_upgraded_meanwhile_drains_the_nodes_and_is_raised(run: Run) -> None:
    with pytest.raises(DatabaseUnusable, match="the database is newer"):
        run(POLITE, reconciler=Refused)


def test_a_third_signal_ends_the_process_whatever_it_waits_for() -> None:
    script = (
        "import os, signal, threading; from workers.fleet import supervise as s\n"
        "with s._collecting_stop_signals([]):\n"
        "    for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    threading.Event().wait()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=PATIENCE)
    assert ended.returncode == 128 + signal.SIGTERM


def test_a_second_signal_ends_deaf_nodes_at_once(run: Run) -> None:
    asked, seconds = run(DEAF, (0.3, signal.SIGINT), (0.8, signal.SIGINT))
    assert asked is signal.SIGINT
    assert seconds > 0.7


def test_deaf_nodes_are_ended_when_the_grace_is_over(run: Run) -> None:
    asked, seconds = run(DEAF, (0.3, signal.SIGTERM), grace=0.5)
    assert asked is signal.SIGTERM
    assert seconds > 0.5


def test_what_fails_once_the_nodes_are_started_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "with_parent", lambda command: ["/bin/sh", "-c", DEAF])
    launcher, idle = Launcher(Settings(state_dir=tmp_path), [Slot("cpu0", None)], print), Idle()
    running = []

    def fail() -> None:
        running.append(launcher.running())
        raise UsageError("masks: cannot write there")

    with pytest.raises(UsageError, match="cannot write"):
        supervise(launcher, cast(Reconciler, idle), 3600, lambda: False, print, fail)
    assert [*running, launcher.running()] == [1, 0]
    assert idle.stopped
