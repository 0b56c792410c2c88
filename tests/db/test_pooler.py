"""PostgreSQL behind a real PgBouncer that gives each transaction another connection, and roles that lack a right."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db import presence
from db.migrate import upgrade
from db.presence import Process
from db.refusals import DatabaseUnusable
from db.session import Sessions, connect, describe_failure, reading, write
from db.views.run_views import run_names
from tests import pgbouncer
from tests.db import scenario
from tests.db.scenario import claim, commit, done, load, numbered

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def pooled_url(database_url: str, postgresql_url: str) -> Iterator[str]:
    if pgbouncer.program() is None:
        pytest.skip("PgBouncer is not installed; .ci/run installs it")
    with pgbouncer.before(postgresql_url) as url:
        name = make_url(database_url).database
        yield make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def pooled(sessions: Sessions, pooled_url: str) -> Iterator[Sessions]:
    through = connect(pooled_url, connections=2)
    yield through
    through.kw["bind"].dispose()


def test_two_clients_of_a_pooler_never_get_each_others_rows(pooled: Sessions, pooled_url: str) -> None:
    """Prepared statements are the server connection's, and that one is somebody else's in the next transaction."""
    other = connect(pooled_url, connections=2)
    for number in range(40):
        for sessions, asked in ((pooled, "mine"), (other, "theirs")):
            with sessions.begin() as session:  # committed: the driver counts anew after each rollback
                # Different statements that the driver would give the same name on its own connection.
                found = session.execute(text(f"SELECT '{asked}', :number"), {"number": number}).one()
            assert found == (asked, number)
    other.kw["bind"].dispose()


def test_a_run_is_loaded_claimed_and_committed_through_a_pooler(pooled: Sessions) -> None:
    run_id = load(pooled, numbered(40))
    for _ in range(10):
        held = claim(pooled, run_id)
        commit(pooled, held, [done(image) for image in held.images])
    assert scenario.run(pooled, run_id).state == "done"


def test_time_limits_hold_in_every_transaction_behind_a_pooler(pooled: Sessions) -> None:
    for _ in range(5):
        with pooled.begin() as session:
            assert session.execute(text("SHOW lock_timeout")).scalar_one() == "10s"
        with reading(pooled) as session:
            assert session.execute(text("SHOW statement_timeout")).scalar_one() == "0"


@pytest.mark.parametrize(("asked", "prepared"), [("?pooler=transaction", False), ("?pooler=session", True), ("", True)])
def test_statements_are_prepared_unless_a_pooler_per_transaction_is_between(
    database_url: str, sessions: Sessions, asked: str, prepared: bool
) -> None:
    through = connect(database_url + asked.replace("?", "&"))
    with through() as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        assert (driver.prepare_threshold is not None) == prepared
    through.kw["bind"].dispose()


def test_an_unknown_kind_of_pooler_is_refused(database_url: str) -> None:
    with pytest.raises(DatabaseUnusable, match=r"\?pooler=statement: use one of transaction, session, none"):
        connect(f"{database_url}&pooler=statement")


def test_the_short_name_of_the_scheme_is_taken(sessions: Sessions, database_url: str) -> None:
    short = connect(database_url.replace("postgresql://", "postgres://"))
    with reading(short) as session:
        assert run_names(session) == []
    short.kw["bind"].dispose()


def test_text_comes_as_text_from_a_database_without_an_encoding(database_url: str, postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        sessions = connect(make_url(postgresql_url).set(database="ascii").render_as_string(hide_password=False))
        upgrade(sessions)
        load(sessions, scenario.rows("Gesicht-äöü.jpg"), name="faces")
        with reading(sessions) as session:
            assert run_names(session) == ["faces"]
        sessions.kw["bind"].dispose()
    finally:
        with psycopg.connect(postgresql_url, autocommit=True) as admin:
            admin.execute("DROP DATABASE ascii WITH (FORCE)")


def test_a_database_without_some_letters_is_told_how_to_make_one_that_has_them(
    database_url: str, postgresql_url: str
) -> None:
    server = make_url(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            latin = connect(server.set(database="latin").render_as_string(hide_password=False))
            upgrade(latin)
            with pytest.raises(DBAPIError) as refused:
                load(latin, scenario.rows("\u732b.jpg"), name="cats")
            [advice] = refused.value.detail
            admin.execute(advice.partition(": ")[2])
            whole = connect(server.set(database="sam3").render_as_string(hide_password=False))
            upgrade(whole)
            load(whole, scenario.rows("\u732b.jpg"), name="cats")
            for sessions in (latin, whole):
                sessions.kw["bind"].dispose()
        finally:
            admin.execute("DROP DATABASE latin WITH (FORCE)")
            admin.execute("DROP DATABASE IF EXISTS sam3 WITH (FORCE)")


@pytest.fixture
def clerk_url(sessions: Sessions, database_url: str, postgresql_url: str) -> Iterator[str]:
    """The URL of a role that may log in, and nothing else."""
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("CREATE ROLE clerk LOGIN")
    yield make_url(database_url).set(username="clerk").render_as_string(hide_password=False)
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("DROP OWNED BY clerk")
        admin.execute("DROP ROLE clerk")


@pytest.mark.parametrize(
    ("granted", "refused"),
    [
        ((), "TABLES"),
        (("SELECT, INSERT, UPDATE, DELETE ON ALL TABLES",), "SEQUENCES"),
    ],
)
def test_a_missing_right_is_told_with_the_grant_that_gives_it(
    database_url: str, clerk_url: str, granted: tuple[str, ...], refused: str
) -> None:
    admin = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
    for right in granted:
        admin.execute(f"GRANT {right} IN SCHEMA public TO clerk")
    clerk = connect(clerk_url)

    with pytest.raises(DBAPIError) as denied:
        load(clerk, numbered(2))

    [advice] = denied.value.detail
    assert f"ON ALL {refused} IN SCHEMA public" in advice
    assert advice in describe_failure(denied.value, clerk_url)
    admin.execute(advice.partition(": ")[2])
    if granted:
        load(clerk, numbered(2))  # the advice, followed literally, is all that was missing
    clerk.kw["bind"].dispose()
    admin.close()


def test_a_role_that_may_make_no_tables_is_told_the_grant(postgresql_url: str, database_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("CREATE ROLE guest LOGIN")
    guest = connect(make_url(database_url).set(username="guest").render_as_string(hide_password=False))
    try:
        with pytest.raises(DBAPIError) as denied:
            upgrade(guest)
        [advice] = denied.value.detail
        with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute(advice.partition(": ")[2])
        upgrade(guest)
    finally:
        guest.kw["bind"].dispose()
        with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute("DROP OWNED BY guest CASCADE")
            admin.execute("DROP ROLE guest")


def test_a_server_that_only_reads_for_a_while_is_waited_for(sessions: Sessions, database_url: str) -> None:
    name = make_url(database_url).database
    admin = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # for connections from now on
    standby = connect(database_url)
    attempts: list[Session] = []

    def register(session: Session) -> int:
        attempts.append(session)
        if len(attempts) == 2:
            admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid != pg_backend_pid() AND datname = current_database()"
            )
        return presence.register(session, "cpu0@here", Process("here", "boot", 1, 7))

    assert write(standby, register)
    assert len(attempts) == 2
    standby.kw["bind"].dispose()
    admin.close()
