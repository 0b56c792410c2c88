"""The chunk in hand: claims it, commits its batches, and gives it back. Opens no image.

No other module of a node makes changes to the database that need a claim.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from db import claims, doorbells, presence
from db.claimed import ClaimedImage
from db.claims import Claim, LeaseLost, Next
from db.doorbells import Call
from db.outcomes import ImageFailed, Outcome
from db.session import read, write
from db.states import WorkerState
from db.values import NOTHING_SPENT, Spent
from db.views.run_views import RunView
from workers.errors import ErrorClass, first_line, one_line
from workers.inference.stream.narrow import Raised, narrowed
from workers.node.worker import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")


class ChunkInHand:
    """One chunk, from its doorbell until it is left. Methods that need a claim raise `LeaseLost` if it is lost."""

    def __init__(self, worker: Worker, run: RunView, chunk_id: int) -> None:
        self.run = run
        self._worker = worker
        self._id = chunk_id
        self._claim: Claim | None = None
        self.is_paused = False  # the last commit found the run paused

    def call(self, declined_runs: Collection[int] = ()) -> Call:
        """What the doorbell asks for. `declined_runs` are the ids of runs that this worker does not serve."""
        return read(self._worker.sessions, doorbells.call_of, self.run.id, self._id, declined_runs)

    def announce(self) -> None:
        """Report that this process has answered the doorbell and loads the run's model if needed."""
        self._worker.report(state=WorkerState.LOADING, run_id=self.run.id, chunk_id=self._id, message=None)

    def unqueue(self, rest: float = 0) -> None:
        """Make the chunk, which is not claimed, pending again after a rest of `rest` seconds.

        Without this it would stay queued until the reconciler misses its doorbell.
        """
        write(self._worker.sessions, doorbells.unqueue, self._id, rest)

    def claim(self) -> bool:
        """Claim the chunk. False: another worker has it, it is finished, or its run was changed since it was read."""
        worker, run = self._worker, self.run
        lease = worker.settings.lease_seconds
        self._claim = write(worker.sessions, claims.claim, run.id, self._id, worker.id, lease, run.uid)
        if self._claim is not None:
            worker.activity.hold(self._claim)
            worker.report()
        return self._claim is not None

    @property
    def is_claimed(self) -> bool:
        """Whether this process has claimed the chunk, even if the claim is lost by now."""
        return self._claim is not None

    @property
    def number(self) -> int:
        return self._held.number

    @property
    def images(self) -> tuple[ClaimedImage, ...]:
        """The images that were pending when the chunk was claimed, in the order of their rows."""
        return self._held.images

    @property
    def is_serial(self) -> bool:
        """Whether an attempt crashed, so that batches run one at a time, each noted first by `begin_range`."""
        return self._held.serial

    @property
    def _held(self) -> Claim:
        assert self._claim is not None, "a chunk is claimed before it is worked on"
        return self._claim

    def begin_range(self, first_row: int, last_row: int) -> None:
        """Note which rows are opened next, so that they are known if this process crashes."""
        worker, claim = self._worker, self._held
        lease = worker.settings.lease_seconds
        self._within_a_lease(lambda: write(worker.sessions, claims.begin_range, claim, first_row, last_row, lease))

    def commit(self, outcomes: Sequence[Outcome], spent: Spent = NOTHING_SPENT) -> bool:
        """Commit the outcomes of one batch and the seconds spent for it; true if that finished the chunk.

        If the database refuses the values of an image, that image fails alone.
        """

        def commit(rows: range) -> list[bool]:
            nonlocal spent
            finished = self._commit(outcomes[rows.start : rows.stop], spent)
            spent = NOTHING_SPENT  # added once, even if the batch is committed in parts
            return [finished] * len(rows)

        results = narrowed(range(len(outcomes)), commit, lambda error: isinstance(error, IntegrityError | DataError))
        pairs = zip(outcomes, results, strict=True)
        refused = [(outcome, result.error) for outcome, result in pairs if isinstance(result, Raised)]
        for outcome, error in refused:
            results.append(self._commit([_refused(outcome, error)], spent))
        return True in results

    def _commit(self, outcomes: Sequence[Outcome], spent: Spent) -> bool:
        worker, claim = self._worker, self._held
        counts = worker.counts.plus(len(outcomes), time.monotonic())
        doing = replace(worker.activity.doing, images=counts.images, images_per_second=counts.per_second)

        def work(session: Session) -> Next:
            then = claims.commit(session, claim, outcomes, worker.settings.lease_seconds, spent)
            presence.report(session, worker.id, **asdict(doing))
            return then

        def was_committed() -> Next | None:
            return read(worker.sessions, claims.was_committed, claim, outcomes)

        then = self._within_a_lease(lambda: write(worker.sessions, work), was_committed)
        worker.counts = counts
        worker.activity.change(images=counts.images, images_per_second=counts.per_second)
        worker.activity.progressed()
        self.is_paused = then is Next.GIVE_BACK
        return then is Next.NOTHING

    def _within_a_lease(self, work: Callable[[], T], already_done: Callable[[], T | None] = lambda: None) -> T:
        """Return `work()`, which needs a valid lease. There are two cases in which `LeaseLost` is not the end.

        If the connection broke, the work may be done and only its answer lost: then return `already_done()`. If the
        database was away for longer than the lease, and no other worker has the chunk yet, the lease can be renewed:
        then do the work again.
        """
        try:
            return work()
        except LeaseLost:
            done = already_done()
            if done is not None:
                return done
            if not self._worker.renew(self._held):
                raise
        return work()

    def stopped(self) -> bool:
        """Whether no further batch may begin: this process ends, the run is paused, or the claim is lost."""
        return self._worker.ends() or self.is_paused or self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether the heartbeat has found that the claim is lost."""
        return self._worker.activity.has_lost(self._held)

    def is_still_ours(self) -> bool:
        """Ask the database whether the claim is still valid, and renew its lease."""
        return self._worker.renew(self._held)

    def release(self, reason: str | None = None) -> None:
        """Give the chunk back; the attempt does not count."""
        self._leave(lambda: write(self._worker.sessions, claims.release, self._held, reason))

    def fail(self, error_class: ErrorClass, reason: str) -> None:
        """Give the chunk back and count the attempt; after too many attempts the chunk fails instead."""
        self._leave(lambda: write(self._worker.sessions, claims.fail_attempt, self._held, reason, error_class))

    def _leave(self, work: Callable[[], object]) -> None:
        try:
            work()
        except SQLAlchemyError as error:  # the database is away
            log.warning("chunk %d comes back when its lease is over: %s", self.number, first_line(error))


def _refused(outcome: Outcome, error: Exception) -> ImageFailed:
    """The failure of an image whose values the database refuses, although it works. Raises the error if the image has
    failed already, and so has no such values."""
    if isinstance(outcome, ImageFailed):
        raise error
    said = one_line(first_line(getattr(error, "orig", None) or error))
    return ImageFailed(outcome.image_id, ErrorClass.INTERNAL, f"the database refuses its result: {said}")
