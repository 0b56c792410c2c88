"""What this process does now, shared by its two threads: the task's and the heartbeat's. Knows no database."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from db.claims import Claim
from db.states import WorkerState
from workers.node.refusals import Refusal

RATE_SECONDS = 60.0  # images a second are measured over this time


@dataclass(frozen=True)
class Doing:
    """What a worker does, with the fields of its row in the database."""

    state: WorkerState = WorkerState.IDLE
    run_id: int | None = None
    chunk_id: int | None = None
    message: str | None = None
    images: int = 0  # committed by this process
    images_per_second: float | None = None


@dataclass(frozen=True)
class Counts:
    """How many images this process has committed, and when."""

    images: int = 0
    recent: tuple[tuple[float, int], ...] = ()  # commits of the last minute: (`time.monotonic()`, images)

    def plus(self, images: int, now: float) -> "Counts":
        """These counts with one more commit, of `images` images at the time `now`."""
        recent = tuple(commit for commit in self.recent if commit[0] >= now - RATE_SECONDS)
        return Counts(self.images + images, (*recent, (now, images)))

    @property
    def per_second(self) -> float:
        """Images a second over the last minute. Needs two commits, as the time that the first one took is not known."""
        spent = self.recent[-1][0] - self.recent[0][0]
        return sum(images for _, images in self.recent[1:]) / spent if spent > 0 else 0.0


class Activity:
    """The fields that both threads use, under one lock. No thread waits for anything while it holds the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doing = Doing()
        self._refusal: Refusal | None = None  # why the present run is declined
        self._claim: Claim | None = None  # claim on the chunk in hand, whose lease the heartbeat renews
        self._lost: Claim | None = None  # the last claim that was found to be lost
        self._loading = False
        self._progress = time.monotonic()  # when a stage last finished some images

    @property
    def doing(self) -> Doing:
        with self._lock:
            return self._doing

    def change(self, **does: Any) -> None:
        """Change these fields of `Doing`."""
        with self._lock:
            self._doing = replace(self._doing, **does)

    def decline(self, refusal: Refusal) -> None:
        """Note that the run in hand is declined, and that its chunk is not in hand any more."""
        with self._lock:
            self._refusal = refusal
            self._doing = replace(self._doing, state=WorkerState.DECLINED, chunk_id=None, message=refusal.reason)

    def declined(self) -> tuple[int, Refusal] | None:
        """(run id, reason) of the run that is declined now; None if none is."""
        with self._lock:
            run_id, refusal = self._doing.run_id, self._refusal
            if self._doing.state != WorkerState.DECLINED or run_id is None or refusal is None:
                return None
            return run_id, refusal

    def forget(self, refusal: Refusal) -> None:
        """Note that a refusal is not valid any more. Changes nothing if a doorbell was answered meanwhile."""
        with self._lock:
            if self._doing.state == WorkerState.DECLINED and self._refusal is refusal:
                self._doing = replace(self._doing, state=WorkerState.IDLE, run_id=None, message=None)

    @property
    def claim(self) -> Claim | None:
        with self._lock:
            return self._claim

    def hold(self, claim: Claim) -> None:
        """Note that a chunk was claimed and work on it begins."""
        with self._lock:
            self._claim, self._progress = claim, time.monotonic()
            self._doing = replace(self._doing, state=WorkerState.RUNNING)

    def let_go(self) -> None:
        """Note that no chunk is in hand any more."""
        with self._lock:
            self._claim = None
            self._doing = replace(
                self._doing, state=WorkerState.IDLE, run_id=None, chunk_id=None, images_per_second=None
            )

    def lose(self, claim: Claim) -> None:
        """Note that the claim is lost. If it has just ended by itself, that does no harm."""
        with self._lock:
            self._lost = claim

    def has_lost(self, claim: Claim) -> bool:
        with self._lock:
            return self._lost is claim

    def progressed(self) -> None:
        """Note that a stage has finished some images. The heartbeat renews the lease only while this goes on."""
        with self._lock:
            self._progress = time.monotonic()

    def stands_still(self, seconds: float) -> bool:
        """Whether no stage has finished an image for more than `seconds`."""
        with self._lock:
            return time.monotonic() - self._progress > seconds

    @property
    def is_loading(self) -> bool:
        with self._lock:
            return self._loading

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Note that a model is loaded or tested during the block. There is no lease then that would end if it hangs."""
        with self._lock:
            self._loading, self._progress = True, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._loading = False
