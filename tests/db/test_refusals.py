"""Errors that real databases raise: which are of our own statement, and which of what is around it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, NoResultFound, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from db.models import Prompt, Run
from db.refusals import is_refused
from db.session import Sessions, connect, read, write
from tests.db import scenario

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
MOST_PARAMETERS = {"sqlite": 250_000, "postgresql": 65_535}  # the most that anybody builds SQLite with


def raised(sessions: Sessions, work: Callable[[Session], Any]) -> tuple[SQLAlchemyError, int]:
    """What `work` raised in a transaction, and how often it was tried."""
    tries = []

    def once(session: Session) -> Any:
        tries.append(1)
        return work(session)

    with pytest.raises(SQLAlchemyError) as error:
        write(sessions, once)
    return error.value, len(tries)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT nothing FROM run",
        "SELECT * FROM nowhere",
        "SELEKT 1",
        "INSERT INTO run (id) VALUES (1)",
        "INSERT INTO prompt (id, run_id, text, every_image) VALUES (1, 4711, 'a', true)",
        "INSERT INTO lease (name, until, host, boot, pid, started) VALUES (NULL, 1, 'a', 'b', 1, 1)",
    ],
)
def test_what_the_database_refuses_is_our_own_and_not_tried_again(sessions: Sessions, statement: str) -> None:
    error, tries = raised(sessions, lambda session: session.execute(text(statement)))
    assert is_refused(error)
    assert tries == 1


def test_too_many_parameters_are_our_own_and_not_tried_again(sessions: Sessions) -> None:
    """The driver of PostgreSQL says so itself, without a code, in the class of errors that lost connections have."""
    many = list(range(MOST_PARAMETERS[sessions.kw["bind"].dialect.name] + 1))
    error, tries = raised(sessions, lambda session: session.execute(select(Prompt).where(Prompt.id.in_(many))))
    assert isinstance(error, DBAPIError)
    assert "many" in str(error.orig) or "between 0 and 65535" in str(error.orig)
    assert is_refused(error)
    assert tries == 1
    assert read(sessions, lambda session: session.execute(text("SELECT 1")).scalar_one()) == 1


def test_a_row_that_is_not_there_is_no_fault_of_the_database(sessions: Sessions) -> None:
    error, _ = raised(sessions, lambda session: session.execute(select(Run).where(Run.id == 4711)).scalar_one())
    assert isinstance(error, NoResultFound)
    assert is_refused(error)


@pytest.mark.parametrize("error", [PoolTimeout("no connection left"), PendingRollbackError("cannot reconnect")])
def test_a_connection_that_is_not_to_be_had_is_around_us(error: SQLAlchemyError) -> None:
    assert not is_refused(error)


@on_sqlite
@pytest.mark.parametrize("pragma", ["query_only=ON", "max_page_count=1"])
def test_a_database_that_takes_no_writes_or_is_full_is_around_us(sessions: Sessions, pragma: str) -> None:
    def fill(session: Session) -> None:
        session.execute(text(f"PRAGMA {pragma}"))
        for name in range(2000):
            session.execute(
                text("INSERT INTO lease (name, until, host, boot, pid, started) VALUES (:name, 1, :long, 'b', 1, 1)"),
                {"name": str(name), "long": "x" * 2000},
            )

    error, _ = raised(sessions, fill)
    assert not is_refused(error)
    sessions.kw["bind"].dispose()


@on_sqlite
@pytest.mark.parametrize("what", ["a folder", "no database"])
def test_a_file_that_is_no_database_is_around_us(tmp_path: Path, database_url: str, what: str) -> None:
    path = tmp_path / "other.db"
    path.mkdir() if what == "a folder" else path.write_bytes(b"something else entirely" * 500)
    with pytest.raises(SQLAlchemyError) as error:
        write(connect(f"sqlite:///{path}"), lambda session: session.execute(select(Run)))
    assert not is_refused(error.value)


@on_postgresql
@pytest.mark.parametrize(
    "statements",
    [
        ["SET TRANSACTION READ ONLY", "DELETE FROM lease"],
        ["SET LOCAL statement_timeout = 1", "SELECT pg_sleep(5)"],
        ["SET LOCAL ROLE nobody_in_particular", "SELECT * FROM run"],
    ],
    ids=["read only", "time limit", "rights"],
)
def test_what_another_server_or_a_later_time_may_allow_is_around_us(sessions: Sessions, statements: list[str]) -> None:
    exists = text("SELECT 1 FROM pg_roles WHERE rolname = 'nobody_in_particular'")

    def work(session: Session) -> None:
        for statement in statements:
            session.execute(text(statement))

    def make_role(session: Session) -> None:
        if session.execute(exists).first() is None:
            session.execute(text("CREATE ROLE nobody_in_particular"))

    write(sessions, make_role)
    with pytest.raises(DBAPIError) as error, sessions.begin() as session:
        work(session)
    assert not is_refused(error.value)


@on_postgresql
def test_a_connection_that_was_ended_or_cannot_be_made_is_around_us(
    sessions: Sessions, database_url: str, postgresql_url: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(1))
    with psycopg.connect(postgresql_url, autocommit=True) as admin, sessions() as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(DBAPIError) as ended:
            session.execute(select(Run).where(Run.id == run_id))
    assert not is_refused(ended.value)
    nowhere = make_url(database_url).set(port=1).render_as_string(hide_password=False)
    with pytest.raises(DBAPIError) as refused, connect(nowhere)() as session:
        session.execute(select(Run))
    assert not is_refused(refused.value)
