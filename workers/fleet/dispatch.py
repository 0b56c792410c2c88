"""Chooses the chunks whose turn it is, commits that, and then rings their doorbells. Runs no chunk itself."""

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice, zip_longest
from typing import Protocol

from celery import Celery
from kombu import Producer
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]  # as new as batch
from sqlalchemy.orm import Session

from db import budgets, doorbells, presence, steering
from db.doorbells import RungChunk
from db.session import Sessions, read, write
from db.steering import Turn
from workers.broker.contract import TASK, Doorbell, queue_name, task_id

log = logging.getLogger(__name__)

# How many chunks of a run may be queued at a time. The broker delivers doorbells in the order in which they were rung,
# so a new run waits for all chunks that were rung before: the window is as small as it can be without letting a worker
# wait. Each worker rings chunks when it ends one, before it takes the next, so one chunk for each worker would be
# enough; the second one replaces doorbells that get lost.
SMALLEST_WINDOW = 2  # even if there is no worker yet; a worker that starts rings more chunks
CHUNKS_PER_WORKER = 2

ROUNDING = 1e-9  # so that 0.29 of 100 workers are 29

DOORBELLS_PER_ROUND_TRIP = 256  # about 500 kB
COMMANDS_PER_ROUND_TRIP = 2 * DOORBELLS_PER_ROUND_TRIP  # a doorbell needs a message, and an event for Flower


class Publish(Protocol):
    """Publishes these doorbells. If the broker cannot be reached, some may be published before it raises kombu's
    `OperationalError`."""

    def __call__(self, chunks: Sequence[RungChunk], /) -> None: ...


def publisher(app: Celery) -> Publish:
    """Make a function that publishes doorbells on the broker of `app`, all of them in one round trip."""

    def publish(chunks: Sequence[RungChunk]) -> None:
        with app.producer_or_acquire() as producer:
            policy = app.conf.task_publish_retry_policy
            producer.connection.transport_options.update(policy)  # without a limit kombu would try to connect for ever
            # If the connection breaks, all doorbells are published again: a doorbell that rings twice is harmless.
            ensured = producer.connection.ensure(producer, _send_all, **policy)
            ensured(app, producer, chunks)

    return publish


def _send_all(app: Celery, producer: Producer, chunks: Sequence[RungChunk]) -> None:
    try:
        with producer.batch(max_size=COMMANDS_PER_ROUND_TRIP):  # type: ignore[attr-defined]  # newer than its stubs
            for rung in chunks:
                _send(app, producer, rung)
    except (BatchPublishError, OperationalError) as error:
        # kombu decides by the original error whether it tries again.
        raise (error.__cause__ or error) from None


def _send(app: Celery, producer: Producer, rung: RungChunk) -> None:
    """Publish one doorbell. The task's id and `argsrepr` are for people who read them in Flower."""
    app.send_task(
        TASK,
        args=[Doorbell(rung.database, rung.run_id, rung.chunk_id, rung.ring).to_message()],
        queue=queue_name(rung.database),
        task_id=task_id(rung.run_name, rung.number, rung.ring),
        argsrepr=f"run={rung.run_name} chunk={rung.number} images={rung.images} first={rung.first_path}",
        kwargsrepr="{}",
        producer=producer,
        retry=False,  # `publisher` retries the whole batch: kombu would go on with a channel that it has closed
    )


def dispatch(sessions: Sessions, publish: Publish, run_ids: Collection[int] | None = None) -> int:
    """Ring chunks of these runs, or of all runs, as far as it is their turn; return how many.

    Runs of a higher priority come first: those of a lower one are rung only when all chunks of the higher ones are
    queued or resting, their share of the workers is used up, or a worker declines them. A run that has exceeded a
    budget of --stop-after is paused instead. If the broker cannot be reached the chunks stay queued, and the reconciler
    rings them again.
    """
    workers, turns, over_budget = read(sessions, _look)
    for turn in over_budget:
        if (why := write(sessions, budgets.stop, turn.run_id)) is not None:
            log.warning("run %s is paused %s", turn.name, why)
    rung: list[list[RungChunk]] = []
    for _, equals in groupby(turns, lambda turn: turn.priority):
        some_wait, level = False, []
        for turn in (turn for turn in equals if turn not in over_budget):
            room, most = _window(workers) - turn.queued, _most(turn.share, workers)
            if not turn.is_due or (most is not None and turn.queued + turn.running >= most):
                continue
            chunks: list[RungChunk] = []
            if room > 0 and (run_ids is None or turn.run_id in run_ids):
                chunks = write(sessions, doorbells.ring_pending, turn.run_id, room, most)
            level.append(chunks)
            some_wait |= most is None and not turn.is_declined and len(chunks) >= room
        rung.append(list(_in_turn(level)))
        if some_wait:
            break
    return ring(publish, chain.from_iterable(rung))


def _look(session: Session) -> tuple[int, Sequence[Turn], list[Turn]]:
    """The number of workers, the runs that go on, and those of them that are to be paused."""
    turns = steering.turns(session)
    over_budget = [turn for turn in turns if turn.stop_after and budgets.exceeded(session, turn.run_id)]
    return presence.live_workers(session), turns, over_budget


def _window(workers: int) -> int:
    """How many chunks of a run may be queued."""
    return max(SMALLEST_WINDOW, CHUNKS_PER_WORKER * workers)


def _most(share: float, workers: int) -> int | None:
    """How many chunks of a run may be queued or running because of its share; None: any number."""
    return None if share >= 1 else max(1, math.floor(share * workers + ROUNDING))


def _in_turn(chunks: Iterable[list[RungChunk]]) -> Iterator[RungChunk]:
    """The chunks in turn, one of each run, since the broker delivers doorbells in the order in which they were rung."""
    return (rung for turn in zip_longest(*chunks) for rung in turn if rung is not None)


def ring(publish: Publish, chunks: Iterable[RungChunk]) -> int:
    """Publish doorbells of committed chunks; return how many. Stops at the first error, as the broker is then away."""
    count, left = 0, iter(chunks)
    while batch := list(islice(left, DOORBELLS_PER_ROUND_TRIP)):
        try:
            publish(batch)
        except OperationalError as error:
            log.warning("the broker cannot be reached (%s); doorbells are rung again later", error)
            break
        count += len(batch)
    return count
