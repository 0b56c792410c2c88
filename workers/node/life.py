"""How a node lives and ends: who tells whom, by which signal, environment variable or exit code. Judges nothing.

launcher                 starts the node, gives it its `SAM3_*` environment, sends SIGTERM to the whole group
   ^ exit code           NODE_BROKE, NODE_RENEWS (in workers.errors), 0 after SIGTERM
Celery parent            outlives the processes that work, counts their faults, never opens the database
   | environment         FAULTS: how many faults in a row there were before the process that it starts
   ^ signal              FAULT_SIGNAL, WELL_SIGNAL, RENEW_SIGNAL
process that works       answers one doorbell at a time; SIGTERM asks it to commit the batch in hand and end
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import celery.worker.state

from workers.errors import NODE_BROKE, NODE_RENEWS

MOST_FAULTS = 3  # in a row, without one image segmented and committed: then the node ends

# From the process that works to its Celery parent. Celery has a use of its own for SIGUSR1; nobody has one for SIGURG,
# which does nothing where it is not waited for.
FAULT_SIGNAL = signal.SIGUSR2  # one fault more
WELL_SIGNAL = signal.SIGURG  # images were segmented and committed: the faults so far do not count
RENEW_SIGNAL = signal.SIGVTALRM  # nothing failed, but a fresh process is due

FAULTS = "_SAM3_FAULTS"

ANSWER_SECONDS = 1.0  # more than the answer of a task takes to the Celery parent


def tell_parent(number: signal.Signals) -> None:
    os.kill(os.getppid(), number)


def faults_so_far() -> int:
    """How many faults in a row this node had before this process began."""
    return int(os.environ.get(FAULTS, "0"))


def count_faults() -> None:
    """In the Celery parent: count what the processes that work report, and end with an exit code of our own when it is
    enough. Celery ends as it does after SIGTERM, when the task in hand has ended."""

    def fault(number: int, frame: object) -> None:
        os.environ[FAULTS] = str(faults_so_far() + 1)
        if faults_so_far() >= MOST_FAULTS:
            celery.worker.state.should_stop = NODE_BROKE  # type: ignore[assignment]

    def well(number: int, frame: object) -> None:
        os.environ[FAULTS] = "0"

    def renew(number: int, frame: object) -> None:
        celery.worker.state.should_stop = NODE_RENEWS  # type: ignore[assignment]

    os.environ[FAULTS] = "0"
    signal.signal(FAULT_SIGNAL, fault)
    signal.signal(WELL_SIGNAL, well)
    signal.signal(RENEW_SIGNAL, renew)


def ignore_hangup() -> None:
    """Whether the end of a terminal ends the work is for our launcher to decide."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def draining_on_sigterm(draining: threading.Event) -> Iterator[None]:
    """While a doorbell is answered, SIGTERM sets `draining` instead of ending the process; afterwards it also ends the
    process, `ANSWER_SECONDS` later.

    The signal goes to the whole group, so it may come just when a task is over. If it ended the process at once, the
    task's answer would not reach the Celery parent, which would report the task as lost, with a traceback. The handler
    cannot stand before the first task: billiard sets its own when it has made the process.
    """

    def drain(number: int, frame: object) -> None:
        draining.set()

    def end(number: int, frame: object) -> None:
        draining.set()  # a doorbell that comes in between is not answered
        ending = threading.Timer(ANSWER_SECONDS, os._exit, (0,))
        ending.daemon = True
        ending.start()

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, end)


def end_process() -> NoReturn:
    """End at once, without a word to Celery, which starts a fresh process in place of this one."""
    logging.shutdown()
    os._exit(1)
