"""What this process does just now, as its two threads see it: the task's and the heartbeat's. Knows no database."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from db.claims import Claim
from db.models import WorkerState
from workers.node.refusals import Refusal

RATE_SECONDS = 60.0  # images per second are those of the last minute


@dataclass(frozen=True)
class Doing:
    """What a worker's row says that it does."""

    state: WorkerState = WorkerState.IDLE
    run_id: int | None = None
    chunk_id: int | None = None
    message: str | None = None
    images: int = 0  # committed by this process
    images_per_second: float | None = None


@dataclass(frozen=True)
class Counts:
    """Images that were committed, and when: the commits of the last minute, each with its time and its images."""

    images: int = 0
    recent: tuple[tuple[float, int], ...] = ()

    def plus(self, images: int, now: float) -> "Counts":
        """These counts with one commit more."""
        recent = tuple(commit for commit in self.recent if commit[0] >= now - RATE_SECONDS)
        return Counts(self.images + images, (*recent, (now, images)))

    @property
    def per_second(self) -> float:
        """Over the last minute, or since the first commit of this stretch of work, whose own time is not known."""
        spent = self.recent[-1][0] - self.recent[0][0]
        return sum(images for _, images in self.recent[1:]) / spent if spent > 0 else 0.0


class Activity:
    """The fields that both threads use, under one lock, which is never held while something is waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doing = Doing()
        self._refusal: Refusal | None = None  # of the run that is declined just now
        self._claim: Claim | None = None  # of the chunk in hand: its lease is to be renewed
        self._lost: Claim | None = None  # the last one that was found to be somebody else's
        self._loading = False
        self._progress = time.monotonic()  # when a stage last finished something

    @property
    def doing(self) -> Doing:
        with self._lock:
            return self._doing

    def change(self, **does: Any) -> None:
        """This process does something else now; only these fields of `Doing` change."""
        with self._lock:
            self._doing = replace(self._doing, **does)

    def decline(self, refusal: Refusal) -> None:
        """The run in hand is not served; its chunk is not in hand any more."""
        with self._lock:
            self._refusal = refusal
            self._doing = replace(self._doing, state=WorkerState.DECLINED, chunk_id=None, message=refusal.reason)

    def declined(self) -> tuple[int, Refusal] | None:
        """The run that is declined just now, and why."""
        with self._lock:
            run_id, refusal = self._doing.run_id, self._refusal
            if self._doing.state != WorkerState.DECLINED or run_id is None or refusal is None:
                return None
            return run_id, refusal

    def forget(self, refusal: Refusal) -> None:
        """A refusal no longer holds. Nothing changes if a doorbell was answered meanwhile."""
        with self._lock:
            if self._doing.state == WorkerState.DECLINED and self._refusal is refusal:
                self._doing = replace(self._doing, state=WorkerState.IDLE, run_id=None, message=None)

    @property
    def claim(self) -> Claim | None:
        with self._lock:
            return self._claim

    def hold(self, claim: Claim) -> None:
        """A chunk was claimed: work on it begins now."""
        with self._lock:
            self._claim, self._progress = claim, time.monotonic()
            self._doing = replace(self._doing, state=WorkerState.RUNNING)

    def let_go(self) -> None:
        """No chunk is in hand, however that ended."""
        with self._lock:
            self._claim = None
            self._doing = replace(
                self._doing, state=WorkerState.IDLE, run_id=None, chunk_id=None, images_per_second=None
            )

    def lose(self, claim: Claim) -> None:
        """The claim is somebody else's; or it has just ended, and nobody asks for it any more."""
        with self._lock:
            self._lost = claim

    def has_lost(self, claim: Claim) -> bool:
        with self._lock:
            return self._lost is claim

    def progressed(self) -> None:
        """A stage has finished something. A lease is renewed only while that happens now and then."""
        with self._lock:
            self._progress = time.monotonic()

    def stands_still(self, seconds: float) -> bool:
        """Whether no stage has finished anything for so long."""
        with self._lock:
            return time.monotonic() - self._progress > seconds

    @property
    def is_loading(self) -> bool:
        with self._lock:
            return self._loading

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While a model is loaded or tested. No lease is held that would run out if the model hangs."""
        with self._lock:
            self._loading, self._progress = True, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._loading = False
