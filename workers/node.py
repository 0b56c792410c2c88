"""The Celery application of a node or of Flower, as `celery -A workers.node`: `workers.app`, and how a node breaks."""

import signal
from typing import Any

import celery.worker.state
from celery.signals import worker_init

from workers.app import create_app
from workers.breaker import EXIT_CODE, STOP_SIGNAL
from workers.settings import load_settings

app = create_app(load_settings())
app.set_current()


@worker_init.connect
def _end_when_told(**_: Any) -> None:
    """In the Celery parent only: end with an exit code of our own, as SIGTERM would with 0."""

    def stop(number: int, frame: object) -> None:
        celery.worker.state.should_stop = EXIT_CODE  # type: ignore[assignment]

    signal.signal(STOP_SIGNAL, stop)
