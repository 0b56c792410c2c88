"""PostgreSQL behind a real PgBouncer that gives each transaction another connection, and roles that lack a right."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db import presence
from db.migrate import ensure_schema, upgrade
from db.presence import Process
from db.refusals import DatabaseUnusable, ForeignDatabase, advice
from db.session import Sessions, connect, describe_failure, reading, write
from db.views.run_views import run_names
from tests import pgbouncer
from tests.db import scenario
from tests.db.scenario import claim, commit, done, load, numbered
from workers.errors import first_line

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
            [told] = advice(refused.value)
            admin.execute(told.partition(": ")[2])
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


def test_missing_rights_are_told_with_all_grants_that_a_worker_needs(database_url: str, clerk_url: str) -> None:
    clerk = connect(clerk_url)

    with pytest.raises(DBAPIError) as denied:
        load(clerk, numbered(2))

    [told] = advice(denied.value)
    assert told in describe_failure(denied.value, clerk_url)
    assert first_line(denied.value).endswith(f"permission denied for table run; {told}")  # as in a worker's log
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(told.partition(": ")[2])
    load(clerk, numbered(2))  # the advice, followed literally, is all that was missing
    clerk.kw["bind"].dispose()


def test_a_missing_right_is_told_for_the_schema_that_our_tables_are_in(database_url: str, clerk_url: str) -> None:
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA ours; GRANT USAGE ON SCHEMA ours TO clerk")
        owner, clerk = (
            connect(make_url(url).update_query_dict({"options": "-csearch_path=ours"}).render_as_string(False))
            for url in (database_url, clerk_url)
        )
        try:
            upgrade(owner)
            with pytest.raises(DBAPIError) as denied:
                load(clerk, numbered(2))
            [told] = advice(denied.value)
            admin.execute(told.partition(": ")[2])
            load(clerk, numbered(2))
        finally:
            for sessions in (owner, clerk):
                sessions.kw["bind"].dispose()
            admin.execute("DROP SCHEMA ours CASCADE")


def test_a_role_that_does_not_own_the_tables_is_told_that_a_grant_is_not_enough(
    sessions: Sessions, database_url: str, clerk_url: str
) -> None:
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk")
    clerk = connect(clerk_url)
    with pytest.raises(DBAPIError) as denied, clerk.begin() as session:
        session.execute(text("ALTER TABLE run ADD COLUMN more integer"))
    assert "must be owner of table run; only the role that made the tables" in describe_failure(denied.value, clerk_url)
    assert "GRANT" not in describe_failure(denied.value, clerk_url)
    clerk.kw["bind"].dispose()


def test_tables_of_another_program_that_are_called_like_ours_are_told_with_a_schema_that_works(
    postgresql_url: str, clerk_url: str, sessions: Sessions
) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE theirs")
        there = make_url(clerk_url).set(database="theirs")
        ours = connect(there.render_as_string(hide_password=False))
        owner = make_url(postgresql_url).set(database="theirs", drivername="postgresql")
        try:
            with psycopg.connect(owner.render_as_string(hide_password=False), autocommit=True) as theirs:
                for name in ("run", "chunk", "alembic_version"):
                    theirs.execute(f"CREATE TABLE {name} (version_num text); GRANT SELECT ON {name} TO clerk")
                for refused in (upgrade, ensure_schema):
                    with pytest.raises(
                        ForeignDatabase, match=r"called like ours \(alembic_version, chunk, run\)"
                    ) as foreign:
                        refused(ours)
                theirs.execute(str(foreign.value).partition("as its owner: ")[2])
            ours.kw["bind"].dispose()
            ours = connect(there.render_as_string(hide_password=False))  # as the next command does
            upgrade(ours)
            load(ours, numbered(2))
            with psycopg.connect(owner.render_as_string(hide_password=False), autocommit=True) as theirs:
                assert theirs.execute("SELECT count(*) FROM public.run").fetchall() == [(0,)]
        finally:
            ours.kw["bind"].dispose()
            admin.execute("DROP DATABASE theirs WITH (FORCE)")


def test_a_role_that_may_not_enter_the_database_is_told_the_grant(postgresql_url: str, clerk_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute('CREATE DATABASE "closed house"')
        admin.execute('REVOKE CONNECT ON DATABASE "closed house" FROM PUBLIC')
        there = make_url(clerk_url).set(database="closed house").render_as_string(hide_password=False)
        clerk = connect(there)
        try:
            with pytest.raises(DBAPIError) as denied, clerk.begin() as session:
                session.execute(text("SELECT 1"))
            [told] = advice(denied.value)
            assert describe_failure(denied.value, there).endswith(told)
            admin.execute(told.partition(": ")[2])
            clerk.kw["bind"].dispose()
            with clerk.begin() as session:
                session.execute(text("SELECT 1"))
        finally:
            clerk.kw["bind"].dispose()
            admin.execute('DROP DATABASE "closed house" WITH (FORCE)')


def test_a_role_that_may_make_no_tables_is_told_the_grant(postgresql_url: str, database_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("CREATE ROLE guest LOGIN")
    guest = connect(make_url(database_url).set(username="guest").render_as_string(hide_password=False))
    try:
        with pytest.raises(DBAPIError) as denied:
            upgrade(guest)
        [told] = advice(denied.value)
        with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute(told.partition(": ")[2])
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
