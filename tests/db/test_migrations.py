"""The migrations make exactly the tables of the models, and only when they should."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from db.migrate import ensure_schema, newest_revision, revision, upgrade
from db.models import Base
from db.session import DatabaseUnusable, Sessions, connect, reading
from tests.db.processes import run_together

UPGRADE = """
import sys
from db.migrate import upgrade
from db.session import connect
sessions = connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
upgrade(sessions)
"""


@pytest.fixture
def empty(database_url: str) -> Iterator[Sessions]:
    """A session factory on a database without our tables."""
    sessions = connect(database_url)
    yield sessions
    sessions.kw["bind"].dispose()


@pytest.fixture
def sessions(empty: Sessions) -> Sessions:
    """One with our tables and nothing else, unlike other tests' databases."""
    upgrade(empty)
    return empty


def test_migrations_make_the_tables_of_the_models(sessions: Sessions) -> None:
    with reading(sessions) as session:
        context = MigrationContext.configure(
            session.connection(), opts={"compare_type": True, "compare_server_default": True}
        )

        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_database_has_the_same_columns_indexes_and_constraints_as_the_models(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    migrated = _described(sessions.kw["bind"])
    if database_url.startswith("sqlite"):
        modelled = create_engine(f"sqlite:///{tmp_path / 'models.db'}")
        Base.metadata.create_all(modelled)
    else:  # into an own schema of the same database
        modelled = create_engine(sessions.kw["bind"].url, connect_args={"options": "-c search_path=models"})
        with modelled.begin() as connection:
            connection.execute(text("CREATE SCHEMA models"))
            Base.metadata.create_all(connection)
    described = _described(modelled)
    modelled.dispose()

    assert migrated == described


def test_sqlite_never_gives_a_chunk_id_again(tmp_path: Path) -> None:
    sessions = connect(f"sqlite:///{tmp_path / 'sam3.db'}")
    ensure_schema(sessions)
    with reading(sessions) as session:
        tables = session.execute(text("SELECT sql FROM sqlite_master WHERE name = 'chunk'")).scalar_one()
    sessions.kw["bind"].dispose()

    assert "AUTOINCREMENT" in tables


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_sqlite_database_is_upgraded_by_itself(empty: Sessions) -> None:
    ensure_schema(empty)
    ensure_schema(empty)

    with reading(empty) as session:
        assert revision(session.connection()) == newest_revision()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_postgresql_database_is_only_upgraded_when_asked(empty: Sessions) -> None:
    with pytest.raises(DatabaseUnusable, match="no tables: run sam3-db upgrade"):
        ensure_schema(empty)

    upgrade(empty)

    ensure_schema(empty)


def test_a_database_of_a_later_release_is_refused(sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'later'"))

    with pytest.raises(DatabaseUnusable, match="newer than this program"):
        ensure_schema(sessions)


def test_several_processes_may_upgrade_at_once(database_url: str) -> None:
    run_together(4, UPGRADE, database_url)


def test_an_upgrade_waits_for_one_that_has_not_committed(empty: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    made, go_on = Event(), Event()
    real = command.upgrade

    def hold_open(*args: Any) -> None:
        real(*args)
        made.set()
        go_on.wait(20)

    monkeypatch.setattr(command, "upgrade", hold_open)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(upgrade, empty)
        assert made.wait(20)
        second = threads.submit(upgrade, empty)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        go_on.set()
        first.result(20)
        second.result(20)


def _described(engine: Engine) -> dict[str, Any]:
    inspector = inspect(engine)
    return {
        table: {
            "columns": [str(sorted(column.items(), key=str)) for column in inspector.get_columns(table)],
            "indexes": sorted(_index(one) for one in inspector.get_indexes(table)),
            "key": inspector.get_pk_constraint(table)["constrained_columns"],
            "foreign keys": sorted(
                (one["constrained_columns"], one["referred_table"], one["referred_columns"])
                for one in inspector.get_foreign_keys(table)
            ),
            "unique": sorted(one["column_names"] for one in inspector.get_unique_constraints(table)),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def _index(one: Any) -> str:
    options = {name: str(value) for name, value in sorted(one.get("dialect_options", {}).items())}
    return f"{one['name']} {one['column_names']} unique={one['unique']} {options}"
