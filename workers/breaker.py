"""Ends a node whose surroundings fail again and again, so that it stops taking work. Judges no error itself."""

import logging
import os
import signal
from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_FAULTS = 3  # in a row, without one commit
EXIT_CODE = 3  # of the node: its launcher starts it again, after a pause that grows
STOP_SIGNAL = signal.SIGUSR2  # from the process that works to its Celery parent, which ends once the task has


def stop_node() -> None:
    """Ask our Celery parent to end the node with `EXIT_CODE`."""
    os.kill(os.getppid(), STOP_SIGNAL)


class Breaker:
    """Counts faults in a row. Once open it stays open: what follows is a fresh process."""

    def __init__(self, trip: Callable[[], None] = stop_node) -> None:
        self._trip = trip
        self._faults = 0

    @property
    def open(self) -> bool:
        return self._faults >= MOST_FAULTS

    def fault(self, reason: str) -> None:
        """Something around the work failed: the model would not load, the database, the disk or a mount was away."""
        self._faults += 1
        log.warning("fault %d of %d in a row: %s", self._faults, MOST_FAULTS, reason)
        if self._faults == MOST_FAULTS:
            log.error("this node stops, nothing it tries succeeds; last: %s", reason)
            self._trip()

    def success(self) -> None:
        """A batch was committed: the surroundings are well."""
        if not self.open:
            self._faults = 0
