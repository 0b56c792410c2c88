"""This process as a worker: its row in the database, and what it says there. Holds no chunk and no model itself."""

import logging
import threading
from dataclasses import asdict

from db import presence
from db.claims import Claim, heartbeat
from db.migrate import ensure_schema
from db.models import WorkerState
from db.patience import Patience
from db.session import Sessions, connect, read, write
from db.views.status import identity
from workers.fleet.processes import this_process
from workers.inference import readahead
from workers.node.activity import Activity, Counts
from workers.settings import Settings

log = logging.getLogger(__name__)

MOST_LEFT_BEHIND = 3  # decoders that hang, each a thread with its memory, before a fresh process takes over


class Worker:
    """One a process. Uses two database connections: the task's, and the heartbeat thread's."""

    def __init__(self, settings: Settings, draining: threading.Event) -> None:
        """Connect and register. `draining` is set when this process is asked to end."""
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
        """Write the row: what this process does, with these changes, and that it lives."""
        if does:
            self.activity.change(**does)
        if not self._write_row():
            self._register_anew()

    def let_go(self) -> bool:
        """Say that no chunk is in hand any more, however that ended; false if that is said already."""
        if self.activity.doing.state in (WorkerState.IDLE, WorkerState.DECLINED):
            return False
        self.activity.let_go()
        self.report()
        return True

    def _write_row(self) -> bool:
        return write(self.sessions, presence.report, self.id, **asdict(self.activity.doing))

    def _register_anew(self) -> None:
        """Our row was cleared away while this process stood still for a day: nobody would see us again."""
        with self._registering:  # the task and the heartbeat may notice at the same time
            if not self._write_row():
                self.id = write(self.sessions, presence.register_anew, self.id, self._node, self._me)
                self._write_row()
                log.warning("this worker was forgotten while it stood still; it goes on as a new one")

    def renew(self, claim: Claim) -> bool:
        """Whether the claim is still ours, with a fresh lease: also one that was over, if nobody has taken it."""
        renewed = write(self.sessions, heartbeat, claim, self.settings.lease_seconds)
        if not renewed:
            self.activity.lose(claim)
        return renewed

    def ends(self) -> bool:
        """Whether what is in hand is the last that this process does."""
        return self.draining.is_set() or worn_out()


def worn_out() -> bool:
    """Whether so many decoders hang in this process that a fresh one is due: threads cannot be ended."""
    return readahead.left_behind() >= MOST_LEFT_BEHIND
