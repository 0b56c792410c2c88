"""Patience with a real server that only reads for a while: who waits, for how long, and what is told."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session

from db.models import Run
from db.patience import Patience
from db.session import Sessions, connect, read, write
from tests.db import scenario
from tests.postgresql import Postgresql
from tests.terminals import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.patience.RETRY_SECONDS", 0.5)
    monkeypatch.setattr("db.patience.TOLD_SECONDS", 0.2)


@pytest.fixture
def only_reads(sessions: Sessions, postgresql: Postgresql) -> Iterator[Postgresql]:
    """A server with a run in it that takes no writes until the test says so."""
    scenario.create(sessions)
    postgresql.only_read(True)
    yield postgresql
    postgresql.only_read(False)


def rename(session: Session) -> None:
    session.execute(update(Run).values(model="other"))


def ask(session: Session) -> None:
    session.execute(text("SELECT 1"))


class Waiting:
    """A writer in a thread of its own, with so much patience."""

    def __init__(self, url: str, seconds: float) -> None:
        self.told: list[str] = []
        self.raised: list[Exception] = []
        self.hurry = threading.Event()
        self.patience = Patience(seconds, self.told.append, self.hurry.is_set)
        self.sessions = connect(url, patience=self.patience)
        self.write()

    def write(self) -> None:
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        try:
            write(self.sessions, rename)
        except InternalError as error:
            self.raised.append(error)

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


Start = Callable[[float], Waiting]


@pytest.fixture
def waiting(database_url: str, only_reads: Postgresql) -> Iterator[Start]:
    """Start writers with so many seconds of patience while the server only reads."""
    started: list[Waiting] = []

    def start(seconds: float) -> Waiting:
        started.append(Waiting(database_url, seconds))
        return started[-1]

    yield start
    only_reads.only_read(False)
    for one in started:
        one.join()
        one.sessions.kw["bind"].dispose()


def test_a_worker_waits_longer_than_a_command_and_tells_it_once(waiting: Start, only_reads: Postgresql) -> None:
    command, worker = waiting(0), waiting(600)
    command.join()
    assert len(command.raised) == 1
    for _ in range(3):
        read(worker.sessions, ask)  # readers are served meanwhile, which does not end the wait
    time.sleep(1)
    only_reads.only_read(False)
    worker.join()
    assert not worker.raised
    waits, goes_on = worker.told
    assert waits.startswith("waiting for the database: cannot execute UPDATE in a read-only transaction; ")
    assert goes_on == "the database answers again"
    assert worker.patience.seconds_since_a_wait() < 60


def test_patience_is_for_the_whole_time_and_not_for_each_transaction(waiting: Start, only_reads: Postgresql) -> None:
    worker = waiting(2)
    worker.join()
    began = time.monotonic()
    with pytest.raises(InternalError):
        write(worker.sessions, rename)
    assert time.monotonic() - began < 60
    assert len(worker.raised) == 1
    assert len(worker.told) == 1


def test_who_is_asked_to_end_waits_as_long_as_a_command(waiting: Start) -> None:
    worker = waiting(600)
    wait_until(lambda: worker.told, "the wait")
    worker.hurry.set()
    worker.join()
    assert len(worker.raised) == 1


def test_another_wait_is_told_again(waiting: Start, only_reads: Postgresql) -> None:
    worker = waiting(600)
    for _ in range(2):
        wait_until(lambda: len(worker.told) % 2, "the wait")
        only_reads.only_read(False)
        wait_until(lambda: len(worker.told) % 2 == 0, "its end")
        worker.join()
        only_reads.only_read(True)
        worker.write()
    only_reads.only_read(False)
    worker.join()
