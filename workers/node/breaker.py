"""Stops a node whose surroundings fail again and again, so that it takes no more work. Judges no error itself."""

import logging
import signal
from collections.abc import Callable

from workers.node.life import FAULT_SIGNAL, MOST_FAULTS, RENEW_SIGNAL, WELL_SIGNAL

log = logging.getLogger(__name__)


class Breaker:
    """Counts faults in a row, and reports each one with `tell`, since a fault may end this process.

    `faults` is how many this process's predecessors had. Once open the breaker stays open: the Celery parent ends the
    node as soon as the task has ended, and what follows is a fresh node.
    """

    def __init__(self, faults: int, tell: Callable[[signal.Signals], None]) -> None:
        self._faults = faults
        self._tell = tell

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
        """Nothing failed, but this process is worn out: the parent ends the node when the task has ended."""
        self._tell(RENEW_SIGNAL)

    def success(self) -> None:
        """Images were segmented and committed: the surroundings are well."""
        if self.suspicious and not self.open:
            self._faults = 0
            self._tell(WELL_SIGNAL)
