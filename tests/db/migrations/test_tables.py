"""The migrations make exactly the tables of the models, and these take no row that nothing of ours could mean."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from db.migrate import ensure_schema, newest_revision
from db.models import Base, Image, Installation, Instance
from db.session import Sessions, connect, reading, without_foreign_keys
from tests import templates
from tests.db import scenario
from tests.db.migrations.conftest import by_hand, migrate


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def one_row(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """One with a run of one image as well, for many tests that add or change nothing."""
    url = f"sqlite:///{tmp_path_factory.mktemp('one') / 'sam3.db'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_url")
        templates.create_postgresql(server, "one_row")
        url = make_url(server).set(database="one_row").render_as_string(hide_password=False)
    sessions = connect(url)
    migrate(sessions, "head")
    scenario.load(sessions, scenario.rows("a.jpg"))
    yield sessions
    sessions.kw["bind"].dispose()
    if request.param == "postgresql":
        templates.drop_postgresql(server, "one_row")


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
    if database_url.startswith("sqlite"):  # as a new file is made
        new = connect(f"sqlite:///{tmp_path / 'models.db'}")
        ensure_schema(new)
        modelled = new.kw["bind"]
    else:  # into an own schema of the same database
        modelled = create_engine(sessions.kw["bind"].url, connect_args={"options": "-c search_path=models"})
        with modelled.begin() as connection:
            connection.execute(text("CREATE SCHEMA models"))
            Base.metadata.create_all(connection)
    described = _described(modelled)
    modelled.dispose()

    assert migrated == described


@pytest.mark.parametrize("way", ["migrated", "made at once"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_never_gives_an_id_again(way: str, empty: Sessions, request: pytest.FixtureRequest) -> None:
    sessions = request.getfixturevalue("sessions") if way == "migrated" else empty
    ensure_schema(sessions)
    with reading(sessions) as session:
        made = session.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")).scalars()

        assert {"run", "prompt", "chunk", "image", "worker"} <= set(made)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_new_sqlite_file_is_one_that_later_releases_can_upgrade(empty: Sessions) -> None:
    ensure_schema(empty)
    with without_foreign_keys(empty) as unchecked, unchecked.begin() as session:
        context = MigrationContext.configure(session.connection())
        identities = session.scalars(select(Installation.identity)).all()

        assert context.get_current_revision() == newest_revision()
        assert [len(identity) for identity in identities] == [32]


def test_the_next_run_gets_an_id_that_no_deleted_run_had(sessions: Sessions) -> None:
    first = scenario.load(sessions, scenario.rows("a.jpg"))
    scenario.delete(sessions, first)

    assert scenario.load(sessions, scenario.rows("a.jpg")) > first


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("column", ["score", "x1", "y2"])
def test_no_database_takes_a_number_that_is_none(one_row: Sessions, column: str, number: str) -> None:
    with reading(one_row) as session:
        image_id = session.execute(select(Image.id)).scalar_one()
    values = {"score": 0.9, "x1": 0.0, "y1": 0.0, "x2": 4.0, "y2": 3.0} | {column: float(number)}

    with pytest.raises(IntegrityError), one_row.begin() as session:
        session.add(Instance(image_id=image_id, prompt_id=1, rank=0, area=9, rle=b"ok", **values))


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE run SET state = 'odd'",
        "UPDATE run SET threshold = 'nan'",
        "UPDATE run SET duplicates = 2",
        "UPDATE run SET rejected = -1",
        "UPDATE chunk SET state = 'odd'",
        "UPDATE chunk SET state = 'running'",
        "UPDATE chunk SET lease_until = 1",
        "UPDATE chunk SET segmented = -1",
        "UPDATE chunk SET failed = 2",
        "UPDATE chunk SET warned = 1",
        "UPDATE chunk SET state = 'done'",
        "UPDATE image SET state = 'odd'",
    ],
)
def test_no_database_takes_a_row_that_nothing_of_ours_could_mean(one_row: Sessions, wrong: str) -> None:
    with pytest.raises(IntegrityError, match=r"ck_\w+"):
        by_hand(one_row, wrong)


def _described(engine: Engine) -> dict[str, Any]:
    inspector = inspect(engine)
    return {
        table: {
            # In any order: a migration adds columns at the end, and nothing of ours counts on their places.
            "columns": sorted(str(sorted(column.items(), key=str)) for column in inspector.get_columns(table)),
            "checks": sorted(f"{one['name']}: {one['sqltext']}" for one in inspector.get_check_constraints(table)),
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
