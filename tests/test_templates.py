"""Databases that tests share one after the other: each test finds its own as new."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from db.doorbells import identity
from db.session import Sessions, connect, read
from tests.db import scenario
from tests.db.recount import differences
from tests.templates import PostgresqlCopies

CHANGES = [
    "ALTER TABLE image ADD COLUMN more int",
    "ALTER TABLE run DROP CONSTRAINT ck_run_state",
    "ALTER TABLE chunk DISABLE TRIGGER USER",
    "ALTER TABLE image SET (autovacuum_enabled = off)",
    "CREATE TABLE more (id int)",
    "CREATE INDEX more ON image (error)",
    "CREATE SCHEMA more",
    "DELETE FROM installation",
    "UPDATE alembic_version SET version_num = 'odd'",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
]


@pytest.fixture
def copies(postgresql_copies: PostgresqlCopies) -> Iterator[PostgresqlCopies]:
    """None that other tests gave back stands before those of this test."""
    before, postgresql_copies._emptied = postgresql_copies._emptied, []
    yield postgresql_copies
    postgresql_copies._emptied += before


def opened(server: str, name: str) -> Sessions:
    return connect(make_url(server).set(database=name).render_as_string(hide_password=False))


def test_a_database_that_was_given_back_is_empty_and_has_another_identity(
    copies: PostgresqlCopies, postgresql_url: str
) -> None:
    seen: list[object] = []
    for name in ("given_back", "taken_again"):
        copies.take(name)
        sessions = opened(postgresql_url, name)
        run_id = scenario.load(sessions, scenario.numbered(4))
        images = [image.id for image in scenario.images(sessions, run_id)]
        seen.append((run_id, images, read(sessions, differences)))
        seen.append(read(sessions, identity))
        sessions.kw["bind"].dispose()
        copies.give_back(name)
        assert copies._emptied == [f"emptied_{name}"]
    assert seen[0] == seen[2]
    assert seen[1] != seen[3]


def test_what_postgresql_learned_of_one_tests_rows_is_unknown_to_the_next(
    copies: PostgresqlCopies, postgresql_url: str
) -> None:
    learned = "SELECT count(*) FROM pg_stats WHERE schemaname = 'public' AND tablename = 'image'"
    seen: list[object] = []
    for name in ("learned", "learned_again"):
        copies.take(name)
        sessions = opened(postgresql_url, name)
        seen.append(read(sessions, lambda session: session.execute(text(learned)).scalar()))
        scenario.load(sessions, scenario.numbered(4))
        with sessions.begin() as session:
            session.execute(text("ANALYZE image"))
        seen.append(read(sessions, lambda session: session.execute(text(learned)).scalar()))
        sessions.kw["bind"].dispose()
        copies.give_back(name)
    assert seen[0] == seen[2] == 0
    assert seen[1] == seen[3] != 0


@pytest.mark.parametrize("change", CHANGES)
def test_one_that_a_test_changed_is_not_given_to_another(
    copies: PostgresqlCopies, postgresql_url: str, change: str
) -> None:
    copies.take("changed")
    with psycopg.connect(make_url(postgresql_url).set(database="changed").render_as_string()) as connection:
        connection.execute(change)
    copies.give_back("changed")
    assert not copies._emptied


def test_one_that_somebody_is_still_connected_to_is_taken_from_them(
    copies: PostgresqlCopies, postgresql_url: str
) -> None:
    copies.take("in_use")
    with psycopg.connect(make_url(postgresql_url).set(database="in_use").render_as_string()) as connection:
        connection.execute("SELECT count(*) FROM run")
        copies.give_back("in_use")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert copies._emptied == ["emptied_in_use"]
