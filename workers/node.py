"""The Celery application of a node or of Flower, as `celery -A workers.node`: `workers.app`, and how a node breaks."""

import os
import signal
from typing import Any

import celery.worker.state
from celery.signals import worker_init

from workers.app import create_app
from workers.breaker import EXIT_CODE, FAULT_SIGNAL, FAULTS, MOST_FAULTS, WELL_SIGNAL, faults_so_far
from workers.settings import load_settings

app = create_app(load_settings())
app.set_current()


@worker_init.connect
def _count_faults(**_: Any) -> None:
    """In the Celery parent only: count what its children report, and end with an exit code of our own when it is
    enough, as SIGTERM would with 0."""

    def fault(number: int, frame: object) -> None:
        os.environ[FAULTS] = str(faults_so_far() + 1)
        if faults_so_far() >= MOST_FAULTS:
            celery.worker.state.should_stop = EXIT_CODE  # type: ignore[assignment]

    def well(number: int, frame: object) -> None:
        os.environ[FAULTS] = "0"

    os.environ[FAULTS] = "0"
    signal.signal(FAULT_SIGNAL, fault)
    signal.signal(WELL_SIGNAL, well)
