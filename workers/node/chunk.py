"""The chunk that this process was called to: claimed, recorded batch by batch, and left. Looks into no image.

Nobody else in a node hands a claim to the database.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from db import claims, doorbells, presence
from db.claims import Claim, ClaimedImage, LeaseLost
from db.models import WorkerState
from db.outcomes import ImageFailed, Outcome
from db.session import read, write
from db.values import NOTHING_SPENT, Spent
from db.views.status import RunView
from workers.errors import ErrorClass, first_line, one_line
from workers.inference.narrow import Raised, narrowed
from workers.node.worker import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")


class ChunkInHand:
    """One chunk from its doorbell on. What needs a claim raises `LeaseLost` once the claim is somebody else's."""

    def __init__(self, worker: Worker, run: RunView, chunk_id: int) -> None:
        self.run = run
        self._worker = worker
        self._id = chunk_id
        self._claim: Claim | None = None

    def waits(self) -> bool:
        """Whether it is a chunk of the run that nobody has claimed, yet; else its doorbell is late or repeated."""
        return read(self._worker.sessions, doorbells.is_rung, self.run.id, self._id)

    def announce(self) -> None:
        """Say that this process answers the doorbell, and loads the run's model if that is needed."""
        self._worker.report(state=WorkerState.LOADING, run_id=self.run.id, chunk_id=self._id, message=None)

    def unqueue(self, rest: float = 0) -> None:
        """Hand the chunk back unclaimed, so that it is rung again in `rest` seconds and not when the doorbell is
        missed."""
        write(self._worker.sessions, doorbells.unqueue, self._id, rest)

    def claim(self) -> bool:
        """False: it is somebody else's, or finished, or its run is not the one that was read any more."""
        worker, run = self._worker, self.run
        lease = worker.settings.lease_seconds
        self._claim = write(worker.sessions, claims.claim, run.id, self._id, worker.id, lease, run.uid)
        if self._claim is not None:
            worker.activity.hold(self._claim)
            worker.report()
        return self._claim is not None

    @property
    def is_claimed(self) -> bool:
        return self._claim is not None

    @property
    def number(self) -> int:
        return self._mine.number

    @property
    def images(self) -> tuple[ClaimedImage, ...]:
        """Those that were pending when the chunk was claimed, in the order of their rows."""
        return self._mine.images

    @property
    def is_serial(self) -> bool:
        """Whether a process died of this chunk: one batch at a time, each announced by `begin_range`."""
        return self._mine.serial

    @property
    def _mine(self) -> Claim:
        assert self._claim is not None, "a chunk is claimed before it is worked on"
        return self._claim

    def begin_range(self, first_row: int, last_row: int) -> None:
        """Record which rows are opened next: should this process die of one, they are the suspects."""
        worker, claim = self._worker, self._mine
        lease = worker.settings.lease_seconds
        self._within_a_lease(lambda: write(worker.sessions, claims.begin_range, claim, first_row, last_row, lease))

    def commit(self, outcomes: Sequence[Outcome], spent: Spent = NOTHING_SPENT) -> bool:
        """Record one batch, and the seconds that were spent for it; true if that finished the chunk. An image whose
        values the database refuses fails alone."""

        def commit(rows: range) -> list[bool]:
            nonlocal spent
            finished = self._commit(outcomes[rows.start : rows.stop], spent)
            spent = NOTHING_SPENT  # noted once, also if the batch is committed in parts
            return [finished] * len(rows)

        results = narrowed(range(len(outcomes)), commit, lambda error: isinstance(error, IntegrityError | DataError))
        raised = [(outcome, one) for outcome, one in zip(outcomes, results, strict=True) if isinstance(one, Raised)]
        for outcome, one in raised:
            results.append(self._commit([_refused(outcome, one.error)], spent))
        return True in results

    def _commit(self, outcomes: Sequence[Outcome], spent: Spent) -> bool:
        worker, claim = self._worker, self._mine
        counts = worker.counts.plus(len(outcomes), time.monotonic())
        doing = replace(worker.activity.doing, images=counts.images, images_per_second=counts.per_second)

        def work(session: Session) -> bool:
            finished = claims.commit(session, claim, outcomes, worker.settings.lease_seconds, spent)
            presence.report(session, worker.id, **asdict(doing))
            return finished

        def landed() -> bool | None:
            return read(worker.sessions, claims.was_committed, claim, outcomes)

        finished = self._within_a_lease(lambda: write(worker.sessions, work), landed)
        worker.counts = counts
        worker.activity.change(images=counts.images, images_per_second=counts.per_second)
        worker.activity.progressed()
        return finished

    def _within_a_lease(self, work: Callable[[], T], landed: Callable[[], T | None] = lambda: None) -> T:
        """The value of `work`, which needs a valid lease. If it is lost, the answer to our own work may have been lost
        with the connection: then what has `landed`. Or the database was away for longer than the lease, and nobody else
        has the chunk yet: then the work is done again."""
        try:
            return work()
        except LeaseLost:
            done = landed()
            if done is not None:
                return done
            if not self._worker.renew(self._mine):
                raise
        return work()

    def stopped(self) -> bool:
        """Whether no further batch is to be begun: this process ends, or the chunk is no longer ours."""
        return self._worker.ends() or self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether the heartbeat found the claim to be somebody else's."""
        return self._worker.activity.has_lost(self._mine)

    def is_still_ours(self) -> bool:
        """Ask the database, and renew the lease if it is."""
        return self._worker.renew(self._mine)

    def release(self, reason: str | None = None) -> None:
        """Give the chunk back with its attempt."""
        self._leave(lambda: write(self._worker.sessions, claims.release, self._mine, reason))

    def fail(self, error_class: ErrorClass, reason: str) -> None:
        """Give the chunk back, or fail it, with this attempt counted."""
        self._leave(lambda: write(self._worker.sessions, claims.fail_attempt, self._mine, reason, error_class))

    def _leave(self, work: Callable[[], object]) -> None:
        try:
            work()
        except SQLAlchemyError as error:  # the database is away
            log.warning("chunk %d comes back when its lease is over: %s", self.number, first_line(error))


def _refused(outcome: Outcome, error: Exception) -> ImageFailed:
    """An image whose values the database refuses, which is well. Raises the error if the image has none."""
    if isinstance(outcome, ImageFailed):
        raise error
    said = one_line(first_line(getattr(error, "orig", None) or error))
    return ImageFailed(outcome.image_id, ErrorClass.INTERNAL, f"the database refuses its result: {said}")
