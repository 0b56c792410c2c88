"""Ends a node whose surroundings fail again and again, so that it stops taking work, or one that is worn out.
Judges no error itself.

The process that works counts its faults and tells its Celery parent, which outlives it: a fault may end the process.
"""

import logging
import os
import signal
from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_FAULTS = 3  # in a row, without one image segmented and committed

# From the process that works to its Celery parent. Celery has a use of its own for SIGUSR1; nobody has one for SIGURG,
# which does nothing where it is not waited for.
FAULT_SIGNAL = signal.SIGUSR2
WELL_SIGNAL = signal.SIGURG
RENEW_SIGNAL = signal.SIGVTALRM

FAULTS = "_SAM3_FAULTS"  # how many so far: a variable that the Celery parent keeps for the processes that it starts


def tell_parent(number: signal.Signals) -> None:
    os.kill(os.getppid(), number)


def faults_so_far() -> int:
    return int(os.environ.get(FAULTS, "0"))


class Breaker:
    """Counts faults in a row, from those of this process's predecessors on. Once open it stays open: the parent ends
    the node as soon as the task has ended, and what follows is a fresh node."""

    def __init__(self, tell: Callable[[signal.Signals], None] = tell_parent) -> None:
        self._tell = tell
        self._faults = faults_so_far()

    @property
    def open(self) -> bool:
        return self._faults >= MOST_FAULTS

    @property
    def suspicious(self) -> bool:
        """Whether this node has done no work since its last fault."""
        return self._faults > 0

    def fault(self, reason: str) -> None:
        """Something around the work failed: the model would not load, the GPU, the database, the disk or a mount."""
        self._faults += 1
        self._tell(FAULT_SIGNAL)
        log.warning("fault %d of %d in a row: %s", self._faults, MOST_FAULTS, reason)
        if self._faults == MOST_FAULTS:
            log.error("this node stops, nothing it tries succeeds; last: %s", reason)

    def renew(self) -> None:
        """Nothing failed, but this process has had its day: the parent ends the node when the task has ended."""
        self._tell(RENEW_SIGNAL)

    def success(self) -> None:
        """Images were segmented and committed: the surroundings are well."""
        if self.suspicious and not self.open:
            self._faults = 0
            self._tell(WELL_SIGNAL)
