"""Stops a node whose surroundings fail repeatedly, so that it takes no more work. Judges no error itself."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from workers.node.life import FAULT_SIGNAL, LOADED_SIGNAL, LOADING_SIGNAL, MOST_FAULTS, RENEW_SIGNAL, WELL_SIGNAL

log = logging.getLogger(__name__)


class Breaker:
    """Counts faults in a row, and reports each one to the Celery parent with `tell`, as a fault may end this process.

    `faults` is how many faults in a row earlier processes of this node had. An open breaker stays open: the Celery
    parent ends the node when the task has ended, and the launcher starts a new one.
    """

    def __init__(self, faults: int, tell: Callable[[signal.Signals], None]) -> None:
        self._faults = faults
        self._tell = tell

    @property
    def open(self) -> bool:
        """Whether there were too many faults in a row, so that this node must take no more work."""
        return self._faults >= MOST_FAULTS

    @property
    def suspicious(self) -> bool:
        """Whether this node has committed no image since its last fault."""
        return self._faults > 0

    def fault(self, reason: str) -> None:
        """Count a failure of the surroundings: model, GPU, database, disk or mount."""
        self._faults += 1
        self._tell(FAULT_SIGNAL)
        log.warning("fault %d of %d in a row: %s", self._faults, MOST_FAULTS, reason)
        if self._faults == MOST_FAULTS:
            log.error("this node stops, nothing it tries succeeds; last: %s", reason)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Let the next worker count a fault if loading a model ends this process: by a signal, as when memory runs out,
        or by a library that aborts."""
        self._tell(LOADING_SIGNAL)
        try:
            yield
        finally:
            self._tell(LOADED_SIGNAL)

    def renew(self) -> None:
        """Ask for a new process although nothing failed: the Celery parent ends the node when the task has ended."""
        self._tell(RENEW_SIGNAL)

    def success(self) -> None:
        """Forget the faults, since images were segmented and committed."""
        if self.suspicious and not self.open:
            self._faults = 0
            self._tell(WELL_SIGNAL)
