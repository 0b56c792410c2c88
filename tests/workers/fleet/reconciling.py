"""What the tests of reconcilers share: reconcilers, other processes of this machine, and claims of theirs."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from db import named_leases, presence
from db.claims import Claim
from db.presence import Process
from db.session import Sessions, reading, write
from tests.db import scenario
from tests.workers import runs
from workers.broker.connection import Doorbells
from workers.fleet.dispatch import publisher
from workers.fleet.processes import this_process
from workers.fleet.reconcile import LEASE, Reconciler
from workers.settings import Settings

ABSENT_SECONDS = 0.2
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def start(sessions: Sessions, url: str, me: Process | None = None) -> Reconciler:
    settings = Settings(broker_url=url, absent_seconds=ABSENT_SECONDS)
    app = runs.app(sessions, url)
    made = Reconciler(sessions, publisher(app), Doorbells(app), settings)
    if me is not None:
        made._me = me
    return made


class Other:
    """Another process of this machine."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["/bin/sleep", "60"])
        started = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        self.identity = replace(this_process(), pid=self._process.pid, started=int(started))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def claimed_by(sessions: Sessions, run_id: int, process: Process) -> Claim:
    worker_id = write(sessions, presence.register, "cpu0@here", process)
    claim = scenario.claim(sessions, run_id, worker_id=worker_id)
    write(sessions, presence.report, worker_id, state="running", run_id=run_id, chunk_id=claim.chunk_id)
    return claim


def holder(sessions: Sessions) -> Process | None:
    with reading(sessions) as session:
        return named_leases.lease_holder(session, LEASE)
