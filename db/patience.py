"""How long a process waits for a database that only asks for patience, and what it says meanwhile. Knows no URLs."""

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

RETRY_SECONDS = 30.0  # what a command waits, and any single transaction at least
TOLD_SECONDS = 5.0  # a wait that is longer is told


def _tell_nobody(line: str) -> None:
    pass


class Patience:
    """Repeats transactions while the database is away, only reads, or is busy; one object for all threads of a process.

    `seconds` are counted from the moment at which the database stopped to answer, not for each transaction. `tell` gets
    one line when a wait has lasted for `TOLD_SECONDS`, and one when it is over. While `hurried()` is true, because this
    process is asked to end, a transaction waits for `RETRY_SECONDS` only.
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
        self._since: float | None = None  # when the database was first missed; None while it answers
        self._told = False
        self._answered = -math.inf  # when the last wait ended that was told

    def repeat(self, once: Callable[[], Value], *, writes: bool) -> Value:
        """The value of `once()`, a whole transaction that may be repeated. Raises what does not pass, or too late."""
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
                if writes or attempt > 1:  # a server that only reads answers to readers all the time
                    self._came_back()
                return value
        raise AssertionError("unreachable")

    def seconds_since_a_wait(self) -> float:
        """How long ago the last wait ended that was long enough to be told; infinite if there was none."""
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
