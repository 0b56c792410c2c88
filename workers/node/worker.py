"""The worker's row in the database: registers this process and writes what it does. Knows no chunk and no model."""

import logging
import threading
from dataclasses import asdict

from db import presence
from db.claims import Claim, heartbeat
from db.doorbells import identity
from db.migrate import ensure_schema
from db.patience import Patience
from db.session import Sessions, connect, read, write
from db.states import WorkerState
from workers.fleet.processes import this_process
from workers.inference.stream import readahead
from workers.node.activity import Activity, Counts
from workers.settings import Settings

log = logging.getLogger(__name__)

MOST_LEFT_BEHIND = 3  # decoders that hang, each in a thread with its memory, before a new process takes over


class Worker:
    """The worker of this process. It uses two connections to the database, one each for the task and the heartbeat."""

    def __init__(self, settings: Settings, draining: threading.Event) -> None:
        """Connect and register. `draining` is set when this process is asked to end. Raises the database's errors."""
        self.settings = settings
        self.draining = draining
        patience = Patience(settings.patience_seconds, log.warning, draining.is_set)
        self.sessions: Sessions = connect(settings.database_url, connections=2, patience=patience)
        ensure_schema(self.sessions)
        self.identity = read(self.sessions, identity)
        self.activity = Activity()
        self.counts = Counts()
        self._me = this_process()
        self._node = f"{settings.node}@{self._me.host}"
        self._registering = threading.Lock()
        self.id = write(self.sessions, presence.register, self._node, self._me)

    def report(self, **does: object) -> None:
        """Write the row with a new heartbeat, after changing these fields of `Doing`."""
        if does:
            self.activity.change(**does)
        if not self._write_row():
            self._register_anew()

    def let_go(self) -> bool:
        """Report that no chunk is in hand any more; false if that is reported already."""
        if self.activity.doing.state in (WorkerState.IDLE, WorkerState.DECLINED):
            return False
        self.activity.let_go()
        self.report()
        return True

    def _write_row(self) -> bool:
        return write(self.sessions, presence.report, self.id, **asdict(self.activity.doing))

    def _register_anew(self) -> None:
        """Add a new row: the old one was deleted while this process was stopped for a day."""
        with self._registering:  # the task and the heartbeat may notice at the same time
            if not self._write_row():
                self.id = write(self.sessions, presence.register_anew, self.id, self._node, self._me)
                self._write_row()
                log.warning("this worker was forgotten while it stood still; it goes on as a new one")

    def renew(self, claim: Claim) -> bool:
        """Renew the lease of the claim; false if the claim is lost. A lease that is over can be renewed, too."""
        renewed = write(self.sessions, heartbeat, claim, self.settings.lease_seconds)
        if not renewed:
            self.activity.lose(claim)
        return renewed

    def ends(self) -> bool:
        """Whether this process ends after the batch in hand."""
        return self.draining.is_set() or worn_out()


def worn_out() -> bool:
    """Whether so many decoders hang in this process that a new one is needed, since threads cannot be ended."""
    return readahead.left_behind() >= MOST_LEFT_BEHIND
