"""How the processes of a node tell each other about faults and their end: by signal, environment or exit code.

Judges no error. The processes are these:

launcher                 starts the node, gives it its `SAM3_*` environment, sends SIGTERM to the whole group
   ^ exit code           NODE_BROKE, NODE_RENEWS (in workers.errors), 0 after SIGTERM
Celery parent            outlives its workers, counts their faults, never opens the database
   | environment         FAULTS: how many faults in a row there were before the worker that it starts
   |                     LOADING: the worker before that one began to load a model, and told nothing more
   ^ signal              FAULT_SIGNAL, WELL_SIGNAL, RENEW_SIGNAL, LOADING_SIGNAL, LOADED_SIGNAL
worker                   answers one doorbell at a time; SIGTERM asks it to commit the batch in hand and end
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

# Signals from the worker to its Celery parent. Celery itself uses SIGUSR1. A process without a handler
# ignores SIGURG.
FAULT_SIGNAL = signal.SIGUSR2  # there was one more fault
WELL_SIGNAL = signal.SIGURG  # images were segmented and committed, so earlier faults do not count
RENEW_SIGNAL = signal.SIGVTALRM  # a new process is needed although nothing failed
# Python answers signals that wait together in the order of their numbers, so the first of these two has the lower one.
LOADING_SIGNAL = signal.SIGPROF  # the worker begins to load a model
LOADED_SIGNAL = signal.SIGWINCH  # that has ended, well or not

# Variables of the environment of workers.
FAULTS = "_SAM3_FAULTS"
LOADING = "_SAM3_LOADING"

ANSWER_SECONDS = 1.0  # more than the answer of a task takes to the Celery parent


def tell_parent(number: signal.Signals) -> None:
    """Send a signal to the Celery parent."""
    os.kill(os.getppid(), number)


def faults_so_far() -> int:
    """How many faults in a row this node had before this process began."""
    return int(os.environ.get(FAULTS, "0"))


def died_loading() -> bool:
    """Whether the worker before this one ended while it loaded a model."""
    return LOADING in os.environ


def count_faults() -> None:
    """In the Celery parent: count the faults that workers report, and end after too many.

    Celery then ends as it does after SIGTERM, when the task in hand has ended, but with one of our exit codes.
    """

    def fault(number: int, frame: object) -> None:
        loaded(number, frame)  # whatever ends the worker now is counted already
        os.environ[FAULTS] = str(faults_so_far() + 1)
        if faults_so_far() >= MOST_FAULTS:
            celery.worker.state.should_stop = NODE_BROKE  # type: ignore[assignment]

    def well(number: int, frame: object) -> None:
        os.environ[FAULTS] = "0"

    def renew(number: int, frame: object) -> None:
        celery.worker.state.should_stop = NODE_RENEWS  # type: ignore[assignment]

    def loading(number: int, frame: object) -> None:
        os.environ[LOADING] = "1"

    def loaded(number: int, frame: object) -> None:
        os.environ.pop(LOADING, None)

    os.environ[FAULTS] = "0"
    os.environ.pop(LOADING, None)
    signal.signal(LOADING_SIGNAL, loading)
    signal.signal(LOADED_SIGNAL, loaded)
    signal.signal(FAULT_SIGNAL, fault)
    signal.signal(WELL_SIGNAL, well)
    signal.signal(RENEW_SIGNAL, renew)


def ignore_hangup() -> None:
    """Ignore SIGHUP, as only the launcher decides whether the end of its terminal ends the work."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def draining_on_sigterm(draining: threading.Event) -> Iterator[None]:
    """While a doorbell is answered, let SIGTERM set `draining` instead of ending the process.

    Afterwards SIGTERM also ends the process, but only after `ANSWER_SECONDS`. The signal goes to the whole process
    group, so it may come when a task has just ended: if it ended the process at once, the task's answer would not reach
    the Celery parent, which would report the task as lost, with a traceback. The handler cannot be set before the first
    task, as billiard sets its own when it has made the process.
    """

    def drain(number: int, frame: object) -> None:
        draining.set()

    def end(number: int, frame: object) -> None:
        draining.set()  # a doorbell that comes before the end is not answered
        ending = threading.Timer(ANSWER_SECONDS, os._exit, (0,))
        ending.daemon = True
        ending.start()

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, end)


def end_process() -> NoReturn:
    """End at once without telling Celery, which then starts a new process."""
    logging.shutdown()
    os._exit(1)
