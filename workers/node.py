"""The Celery application of a node or of Flower, as `celery -A workers.node`: `workers.app`, and how a node breaks."""

import logging
import os
import signal
from typing import Any

import celery.worker.state
import redis
from celery.signals import worker_init
from kombu.transport import redis as transport
from kombu.transport import virtual

from workers.app import create_app
from workers.breaker import EXIT_CODE, FAULT_SIGNAL, FAULTS, MOST_FAULTS, WELL_SIGNAL, faults_so_far
from workers.errors import first_line
from workers.settings import load_settings

log = logging.getLogger(__name__)

app = create_app(load_settings())
app.set_current()


class _FreeingQoS(transport.QoS):
    """Frees the place of a message that is done even if the broker could not be told so.

    kombu would count it as in hand for ever, and a node that may have one at a time would never take another. The
    broker hands it out again after a day, when its chunk is long over.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except (redis.RedisError, OSError) as error:
            log.warning("the broker did not hear that a doorbell was answered: %s", first_line(error))
            virtual.QoS.ack(self, delivery_tag)


transport.Channel.QoS = _FreeingQoS


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
