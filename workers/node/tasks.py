"""The Celery task by its name, for both processes of a node. Knows nothing of what it does.

The Celery parent imports this, and never runs the task. So what the task needs is imported when a worker begins: the
parent starts in half the time without it.
"""

from typing import Any

from celery import shared_task
from celery.signals import worker_process_init

from sam3_start import QuickImports
from workers.broker.contract import TASK


@worker_process_init.connect
def _introduce_worker(**_: Any) -> None:
    with QuickImports():
        from workers.node import doorbell

    doorbell.introduce_worker()


@shared_task(name=TASK)
def segment_chunk(message: Any) -> dict[str, Any]:
    """Segment what is pending of one chunk. Returns a small summary for Flower; raises if the attempt failed."""
    from workers.node import doorbell

    return doorbell.answer(message)
