"""Chooses the chunks whose turn it is, commits that, then rings their doorbells; runs no chunk itself."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from typing import Protocol

from celery import Celery
from kombu import Producer
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]  # as new as batch
from sqlalchemy.orm import Session

from db import doorbells, presence
from db.doorbells import RungChunk
from db.session import Sessions, read, write
from db.views import status
from workers.contract import TASK, Doorbell, queue_name, task_id

log = logging.getLogger(__name__)

# How many chunks of a run are rung at a time. The broker hands doorbells out in the order they were rung, so whatever
# is rung ahead of a new run keeps it waiting: as little as no worker has to wait for. Each worker rings at the end of a
# chunk, before it takes the next one, so one chunk for each would do; the second stands in for doorbells that get lost.
SMALLEST_WINDOW = 2  # also while there is no worker yet: each one that comes rings its own
CHUNKS_PER_WORKER = 2

DOORBELLS_PER_ROUND_TRIP = 256  # about 500 kB
COMMANDS_PER_ROUND_TRIP = 2 * DOORBELLS_PER_ROUND_TRIP  # each is a message, and an event for Flower


class Publish(Protocol):
    """Rings these doorbells, all or perhaps some; raises kombu's OperationalError when the broker cannot be reached."""

    def __call__(self, chunks: Sequence[RungChunk], /) -> None: ...


def publisher(app: Celery) -> Publish:
    """Ring through `app`'s broker, all doorbells in one round trip."""

    def publish(chunks: Sequence[RungChunk]) -> None:
        with app.producer_or_acquire() as producer:
            policy = app.conf.task_publish_retry_policy
            producer.connection.transport_options.update(policy)  # or it would try to connect for ever
            # Repeated as a whole when the connection broke in the middle: a doorbell that rings twice is harmless.
            ensured = producer.connection.ensure(producer, _send_all, **policy)
            ensured(app, producer, chunks)

    return publish


def _send_all(app: Celery, producer: Producer, chunks: Sequence[RungChunk]) -> None:
    try:
        with producer.batch(max_size=COMMANDS_PER_ROUND_TRIP):  # type: ignore[attr-defined]  # newer than its types
            for rung in chunks:
                _send(app, producer, rung)
    except (BatchPublishError, OperationalError) as error:
        # What broke the connection says whether to try again.
        raise (error.__cause__ or error) from None


def _send(app: Celery, producer: Producer, rung: RungChunk) -> None:
    """The task's id and arguments are made for people who look at Flower."""
    app.send_task(
        TASK,
        args=[Doorbell(rung.database, rung.run_id, rung.chunk_id, rung.ring).to_message()],
        queue=queue_name(rung.database),
        task_id=task_id(rung.run_name, rung.number, rung.ring),
        argsrepr=f"run={rung.run_name} chunk={rung.number} images={rung.images} first={rung.first_path}",
        kwargsrepr="{}",
        producer=producer,
        retry=False,  # `publisher` does: within a batch kombu would go on with a channel that it has closed
    )


def dispatch(sessions: Sessions, publish: Publish, run_ids: Iterable[int] | None = None) -> int:
    """Ring due chunks of these runs, or of every active one, up to each run's window; return how many.

    When the broker cannot be reached the chunks stay queued, and the reconciler rings them again.
    """
    room = read(sessions, _room, run_ids if run_ids is None else list(run_ids))
    chunks = [write(sessions, doorbells.ring_pending, run_id, count) for run_id, count in room.items() if count > 0]
    return ring(publish, _in_turn(chunks))


def _room(session: Session, run_ids: list[int] | None) -> dict[int, int]:
    """How many chunks more of each run may be rung; of every active one, if none is named."""
    window = max(SMALLEST_WINDOW, CHUNKS_PER_WORKER * presence.live_workers(session))
    runs = status.active_runs(session) if run_ids is None else run_ids
    return {run_id: window - status.queued_chunks(session, run_id) for run_id in runs}


def _in_turn(chunks: Iterable[list[RungChunk]]) -> Iterator[RungChunk]:
    """One of each run after the other, since the broker hands doorbells out in the order they were rung."""
    return (rung for turn in zip_longest(*chunks) for rung in turn if rung is not None)


def ring(publish: Publish, chunks: Iterable[RungChunk]) -> int:
    """Publish doorbells of committed rows; stop at the first that fail, since the broker is then away."""
    count, left = 0, iter(chunks)
    while batch := list(islice(left, DOORBELLS_PER_ROUND_TRIP)):
        try:
            publish(batch)
        except OperationalError as error:
            log.warning("the broker cannot be reached (%s); doorbells are rung again later", error)
            break
        count += len(batch)
    return count
