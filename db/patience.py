"""How long a process waits for a database that is away or busy, and what it says meanwhile. Knows no URLs."""

import itertools
import math
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from db.refusals import passes, refusal

Value = TypeVar("Value")

RETRY_SECONDS = 30.0  # how long a command waits, and the least that any transaction waits
TOLD_SECONDS = 5.0  # a longer wait is told to the user


def _tell_nobody(line: str) -> None:
    pass


class Patience:
    """Repeats transactions while the database is away, read-only or busy. All threads of a process share one object.

    `seconds` are counted from the moment when the database stopped answering, not anew for each transaction. `tell`
    gets one line when a wait has lasted `TOLD_SECONDS`, and one when it is over. While `hurried()` is true, because
    this process was asked to end, a transaction waits `RETRY_SECONDS` only.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        tell: Callable[[str], object] = _tell_nobody,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self._seconds = seconds
        self._tell = tell
        self._hurried = hurried
        self._lock = threading.Lock()
        self._since: float | None = None  # when the database stopped answering; None while it answers
        self._told = False
        self._answered = -math.inf  # end of the last wait that was told

    def repeat(self, once: Callable[[], Value], *, writes: bool) -> Value:
        """Return `once()`, one whole transaction, which is repeated while its error is one that passes.

        Raises `DBAPIError` if the error does not pass, or has not passed in time.
        """
        began = time.monotonic()
        for attempt in itertools.count(1):
            try:
                value = once()
            except DBAPIError as error:
                if not passes(error) or time.monotonic() > self._deadline(began):
                    raise
                self._missed(error)
                time.sleep(random.uniform(0.05, 0.1) * 2 ** min(attempt, 4))
            else:
                if writes or attempt > 1:  # a read-only server answers readers all the time, so this proves nothing
                    self._came_back()
                return value
        raise AssertionError("unreachable")

    def seconds_since_a_wait(self) -> float:
        """Seconds since the end of the last wait that was told; infinite if there was none."""
        return time.monotonic() - self._answered

    def _deadline(self, began: float) -> float:
        since = self._since
        if since is None or self._hurried():
            return began + RETRY_SECONDS
        return max(began + RETRY_SECONDS, since + self._seconds)

    def _missed(self, error: DBAPIError) -> None:
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
            if self._told or time.monotonic() - self._since < TOLD_SECONDS:
                return
            self._told = True
        self._tell(f"waiting for the database: {refusal(error)}")

    def _came_back(self) -> None:
        if self._since is None:  # the usual case needs no lock
            return
        with self._lock:
            told, self._since, self._told = self._told, None, False
            if told:
                self._answered = time.monotonic()
        if told:
            self._tell("the database answers again")
