"""Runs nodes and a reconciler until the work is over or a signal asks to stop; knows no flags and no runs."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sam3_start import STOP_SIGNALS
from workers.fleet.launcher import Launcher, Say
from workers.fleet.reconcile import Reconciler

TICK_SECONDS = 0.1
LEAVE_SECONDS = 10.0  # to wait for the reconciler's last round, as its database may not answer


def supervise(
    launcher: Launcher,
    reconciler: Reconciler,
    grace: float,
    over: Callable[[], bool],
    say: Say,
    started: Callable[[], object] = lambda: None,
) -> signal.Signals | None:
    """Run the nodes until `over()`; return the signal that ended it earlier, or None.

    `started` is called once, while the nodes start, which takes seconds of a processor. What it raises ends them.
    After the first signal the nodes drain: batches in hand are committed and chunks given back. After a second signal,
    or `grace` seconds, the nodes are killed; when their leases end, other workers get the chunks. A third signal ends
    this process at once, and with it the nodes. Raises the reconciler's `DatabaseUnusable` once the nodes have drained.
    """
    asked: list[signal.Signals] = []
    stop = threading.Event()
    reconciling = threading.Thread(target=reconciler.run, args=(stop,), name="reconciler", daemon=True)
    with _collecting_stop_signals(asked):
        try:
            launcher.start()
            reconciling.start()
            started()
            while not asked and not over() and reconciler.fault is None:
                launcher.tend()
                time.sleep(TICK_SECONDS)
            if asked:
                say("stopping: the batch in hand is finished first; once more to stop at once")
            _drain(launcher, grace, asked)
        finally:
            launcher.kill()
            stop.set()
            if reconciling.is_alive():
                reconciling.join(LEAVE_SECONDS)
    if reconciler.fault is not None:
        raise reconciler.fault
    return asked[0] if asked else None


def _drain(launcher: Launcher, grace: float, asked: list[signal.Signals]) -> None:
    before, deadline = len(asked), time.monotonic() + grace
    launcher.drain()
    while launcher.running() and time.monotonic() < deadline and len(asked) == before:
        time.sleep(TICK_SECONDS / 2)


@contextmanager
def _collecting_stop_signals(asked: list[signal.Signals]) -> Iterator[None]:
    """Append stop signals to `asked` instead of ending. Signals that are ignored already, as by nohup, stay ignored."""

    def note(number: int, frame: object) -> None:
        asked.append(signal.Signals(number))
        if len(asked) > 2:
            os._exit(128 + number)

    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A process that was asked to stop is about to exit, so another signal must not kill it. Only Ctrl-C works
            # again, in case that the exit takes long.
            ending = bool(asked) and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ending else handler)
