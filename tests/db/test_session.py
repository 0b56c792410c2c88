"""How databases are opened, read and written: on SQLite and on PostgreSQL."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from db import session as database
from db.models import Chunk, Run
from db.patience import RETRY_SECONDS
from db.refusals import DatabaseUnusable
from db.session import LOCK_SECONDS, Sessions, connect, describe_failure, reading, write
from tests.db import scenario
from tests.db.processes import run_together
from tests.db.scenario import load, numbered

# Reads the counter and writes one more: the second of two that do so at once would be refused by SQLite if both had
# begun as readers.
COUNT_UP = """
import sys
from sqlalchemy import select, update
from db.models import Run
from db.session import connect, write

def up(session):
    images = session.execute(select(Run.images)).scalar_one()
    session.execute(update(Run).values(images=images + 1))

sessions = connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(50):
    write(sessions, up)
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_four_processes_that_read_then_write_never_find_sqlite_locked(database_url: str, sessions: Sessions) -> None:
    scenario.create(sessions)

    run_together(4, COUNT_UP, database_url)

    with sessions.begin() as session:
        assert session.execute(select(Run.images)).scalar_one() == 200
        session.execute(update(Run).values(images=0))  # what its rows say


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_reader_does_not_wait_for_the_writer_and_sees_one_state(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)
    with sessions.begin() as writer:
        writer.execute(update(Run).values(images=7))
        with reading(sessions) as reader:
            assert scenario.run(sessions, run_id).images == 0
            assert reader.execute(select(Run.images)).scalar_one() == 0
            writer.commit()
            assert reader.execute(select(Run.images)).scalar_one() == 0
    with sessions.begin() as writer:
        writer.execute(update(Run).values(images=0))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_slow_reader_is_not_thrown_out_by_postgresql_but_a_writer_is(sessions: Sessions) -> None:
    limits = text("SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')")
    with reading(sessions) as session:
        assert session.execute(limits).one() == ("0", "0")
    with sessions() as session:
        assert session.execute(limits).one() == ("1min", "1min")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_of_two_transactions_in_a_deadlock_one_is_repeated(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    first, second = [chunk.id for chunk in scenario.chunks(sessions, run_id)]
    both_hold_one = Barrier(2)
    tries: list[int] = []

    def lock(session: Session, one: int, other: int) -> None:
        tries.append(one)
        session.execute(update(Chunk).where(Chunk.id == one).values(error="locked"))
        if len(tries) <= 2:
            both_hold_one.wait(10)
        session.execute(update(Chunk).where(Chunk.id == other).values(error="locked"))

    with ThreadPoolExecutor(2) as threads:
        forth = threads.submit(write, sessions, lock, first, second)
        back = threads.submit(write, sessions, lock, second, first)
        forth.result(20)
        back.result(20)

    assert len(tries) == 3


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_process_that_stood_still_in_a_transaction_begins_it_anew(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)
    tries: list[int] = []

    def work(session: Session) -> None:
        tries.append(1)
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))
        if len(tries) == 1:
            time.sleep(0.5)
        session.execute(update(Run).values(model="other"))

    write(sessions, work)

    assert len(tries) == 2
    assert scenario.run(sessions, run_id).model == "other"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_lock_that_is_not_had_in_time_is_asked_for_again(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)
    tries: list[int] = []

    def work(session: Session) -> None:
        tries.append(1)
        session.execute(text("SET LOCAL lock_timeout = '100ms'"))
        if len(tries) == 3:
            other.rollback()
        session.execute(update(Run).values(model="other"))

    with sessions() as other:
        other.execute(select(Run).where(Run.id == run_id).with_for_update())
        write(sessions, work)

    assert len(tries) == 3


def test_waiting_for_a_lock_leaves_time_to_ask_again() -> None:
    assert 2 * LOCK_SECONDS < RETRY_SECONDS


def test_other_errors_are_not_repeated(sessions: Sessions) -> None:
    tries: list[int] = []

    def work(session: Session) -> None:
        tries.append(1)
        session.execute(text("SELECT * FROM nothing"))

    with pytest.raises(DBAPIError):
        write(sessions, work)

    assert len(tries) == 1


def test_nothing_of_a_transaction_that_raises_is_kept(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)

    def work(session: Session) -> None:
        session.execute(update(Run).values(images=7))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(sessions, work)

    assert scenario.run(sessions, run_id).images == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not a database URL"),
        ("/data/sam3.db", "is not a database URL"),
        ("postgresql://me:secret@host:port/sam3", "is not a database URL"),
        ("postgresql://me:se@secret@host/sam3", "password spells / # [?] @ as %2F %23 %3F %40"),
        ("postgresql://me:se@secret/s@host/sam3", "password spells"),
        ("postgresql://me:se@cret?secret@host/sam3", "password spells"),
        ("postgresql://me:se@cret:secret@host/sam3", "is not a database URL"),
        ("mysql://me:secret@host/sam3", "names mysql; only sqlite and postgresql"),
        ("sqlite://", "names no file, and a database in memory is seen by one process only; use sqlite:////path"),
        ("sqlite:///:memory:", "names no file, and a database in memory is seen by one process only"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(DatabaseUnusable, match=says) as refused:
        connect(url)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1/sam3",
        "postgresql://127.0.0.1:1/sam3?user=me&password=secret",
    ],
)
def test_a_server_that_does_not_answer_is_described_without_the_password(url: str) -> None:
    sessions = connect(url)

    with sessions() as session, pytest.raises(OperationalError) as failed:
        session.connection()

    said = describe_failure(failed.value, url)
    assert "secret" not in said
    assert "127.0.0.1:1/sam3" in said
    assert "\n" not in said


def test_a_process_opens_no_more_connections_than_it_may(postgresql_url: str) -> None:
    sessions = database.connect(postgresql_url, connections=2)
    assert sessions.kw["bind"].pool.size() == 2
    assert sessions.kw["bind"].pool._max_overflow == 0
    sessions.kw["bind"].dispose()
