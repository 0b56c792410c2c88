"""The Celery application of a node. Sets up the Celery parent, knows no SQL."""

import logging
from typing import Any

import redis
from billiard.exceptions import WorkerLostError
from celery.signals import worker_before_create_process, worker_init
from celery.worker import state
from celery.worker.control import Panel

from workers.broker.app import create_app
from workers.errors import first_line
from workers.node import life
from workers.settings import load_settings

POOL = "multiprocessing"  # the name by which billiard logs that a process has ended


class _BrokerLost(logging.Filter):
    """Logs the loss of the broker in one line, as a traceback through kombu does not help."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, redis.RedisError | OSError):
            record.msg, record.args = f"{record.getMessage()} ({first_line(error)})", ()
            record.exc_info = record.exc_text = None
        return True


def _is_news(record: logging.LogRecord) -> bool:
    """False if the worker has ended before it was up, or idle, because this node was asked to end."""
    error = record.exc_info[1] if record.exc_info else None
    return state.should_stop is None or not (isinstance(error, WorkerLostError) or record.name == POOL)


for _name in ("celery.worker", POOL):
    logging.getLogger(_name).addFilter(_is_news)
for _name in ("celery.worker.consumer.consumer", "celery.worker.pidbox", "kombu.message"):
    logging.getLogger(_name).addFilter(_BrokerLost())

# Remote commands that only read, and the one with which Flower asks for events.
LOOKING = {"ping", "stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf"}
HARMLESS = LOOKING | {"report", "query_task", "enable_events"}
REFUSAL = "this node takes no remote control; start it with sam3-worker --allow-control"


def refuse_control() -> None:
    """Answer all commands of Celery that are not harmless with a refusal.

    Anybody who can write to the broker can send them, and `cancel_consumer` for instance would leave a node without
    work for ever.
    """
    for name in set(Panel.data) - HARMLESS:
        Panel.data[name] = lambda state, **arguments: {"error": REFUSAL}


settings = load_settings()
app = create_app(settings)
app.set_current()
if not settings.allow_control:
    refuse_control()


@worker_init.connect
def _count_faults(**_: Any) -> None:
    life.count_faults()


@worker_before_create_process.connect
def _ignore_hangup(**_: Any) -> None:
    """Replace Celery's handler of SIGHUP, which would start the node again without the flags of its Python."""
    life.ignore_hangup()
