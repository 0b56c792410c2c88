"""The migrations make exactly the tables of the models, and only when they should."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, func, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from db.intake import NewRow, find_run
from db.migrate import _config, _known_revisions, ensure_schema, newest_revision, revision, upgrade
from db.models import Base, Chunk, Image, Installation, Instance, Run
from db.prompt_rows import prompt_ids
from db.refusals import DatabaseUnusable
from db.session import Sessions, connect, reading, without_foreign_keys, write
from db.views.run_views import run_view
from tests import templates
from tests.db import scenario
from tests.db.processes import run_together
from tests.db.recount import differences
from tests.quick_start import PROJECT
from tests.terminals import PATIENCE

FIRST_REVISION_ROWS = (
    "INSERT INTO run (id, name, state, created_at, source, image_column, columns, root, confined, follow_symlinks,"
    " chunk_size, load, load_start, source_rows, source_size, source_mtime_ns, source_sha256, model, threshold,"
    " mask_threshold, score_floor, mask_rule, orientation, images, finished_at)"
    " VALUES (7, 'faces', 'done', 1.0, '/data/faces.csv', 'path', '[\"path\"]', '/data', false, false, 4, 1, 2, 2, 10,"
    " 11, 'sha', 'tiny', 0.5, 0.5, 0.3, 'library', 'exif', 2, 2.0)",
    "INSERT INTO prompt (id, run_id, text, every_image) VALUES (3, 7, 'person', true)",
    "INSERT INTO chunk (id, run_id, number, state, images, segmented, empty, instances)"
    " VALUES (5, 7, 1, 'done', 2, 1, 1, 1)",
    'INSERT INTO image (id, run_id, "row", load, path, state, chunk_id, width, height)'
    " VALUES (11, 7, 1, 1, 'a.jpg', 'done', 5, 4, 3), (12, 7, 2, 1, 'b.jpg', 'done', 5, 4, 3)",
    "INSERT INTO result (image_id, prompt_id, fence, presence, instances, capped)"
    " VALUES (11, 3, 1, 0.9, 1, true), (12, 3, 1, 0.1, 0, false)",
    "INSERT INTO instance (image_id, prompt_id, rank, score, x1, y1, x2, y2, area, rle)"
    " VALUES (11, 3, 0, 0.9, :endless, 0, 4, 3, 9, :rle)",
)

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


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for SQLite files that have come so far, by how far: the migrations take most of a test's time."""
    return tmp_path_factory.mktemp("stages")


def bring(sessions: Sessions, stage: Path, to: str, *rows: str) -> None:
    """Migrate a database to a revision and add rows. A SQLite file is a copy of the first one that came there."""
    engine = sessions.kw["bind"]
    if engine.dialect.name == "sqlite" and stage.exists():
        engine.dispose()
        shutil.copy(stage, engine.url.database)
        return
    migrate(sessions, to)
    with without_foreign_keys(sessions) as unchecked, unchecked.begin() as session:
        for statement in rows:
            session.execute(text(statement), {"endless": float("-inf"), "rle": b"ok"} if ":rle" in statement else {})
    if engine.dialect.name == "sqlite":
        engine.dispose()
        shutil.copy(engine.url.database, stage)


def migrate(sessions: Sessions, to: str) -> None:
    with without_foreign_keys(sessions) as unchecked, unchecked.begin() as session:
        command.upgrade(_config(session.connection()), to)


@pytest.fixture
def sessions(empty: Sessions, stages: Path) -> Sessions:
    """One with our tables as the migrations make them, and nothing else, unlike other tests' databases."""
    bring(empty, stages / "newest", "head")
    return empty


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


@pytest.fixture
def filled(empty: Sessions, stages: Path) -> Sessions:
    """A database as the first revision left it, with a run of two images, and numbers that are none in one of them."""
    bring(empty, stages / "first", "0001", *FIRST_REVISION_ROWS)
    return empty


def test_a_cancel_that_was_killed_before_the_upgrade_is_finished_after_it(filled: Sessions) -> None:
    with filled.kw["bind"].begin() as connection:
        connection.execute(text("UPDATE run SET state = 'cancelled'"))
        connection.execute(text("UPDATE chunk SET state = 'pending', images = 3"))
        pending = "VALUES (13, 7, 3, 1, 'c.jpg', 'pending', 5)"
        connection.execute(text(f'INSERT INTO image (id, run_id, "row", load, path, state, chunk_id) {pending}'))
        connection.execute(text("UPDATE run SET images = 3"))
    upgrade(filled)

    assert scenario.run(filled, 7).state == "cancelling"
    assert scenario.cancel(filled, 7) == 1
    with reading(filled) as session:
        assert differences(session) == []
    assert scenario.run(filled, 7).state == "cancelled"


def test_a_filled_database_of_the_first_revision_is_upgraded_with_its_rows(filled: Sessions) -> None:
    upgrade(filled)

    with reading(filled) as session:
        assert differences(session) == []
        [run] = session.execute(select(Run)).scalars()
        assert (len(run.uid), run.source_ended, run.stretch) == (32, True, False)
        [chunk] = session.execute(select(Chunk)).scalars()
        assert (chunk.capped, chunk.warned) == (1, 0)
        [instance] = session.execute(select(Instance)).scalars()
        assert (instance.x1, instance.x2, instance.rle) == (0.0, 4.0, b"ok")


def test_each_prompt_of_an_older_run_is_a_class_of_its_own_after_the_upgrade(filled: Sessions) -> None:
    with filled.kw["bind"].begin() as connection:
        connection.execute(text("INSERT INTO prompt (id, run_id, text, every_image) VALUES (9, 7, 'a=b', true)"))
    upgrade(filled)

    with reading(filled) as session:
        view = run_view(session, 7)
        assert view is not None
        assert view.prompts == {3: "person", 9: "a=b"}
        assert [one.name for one in view.classes.values()] == ["person", "a=b"]
        assert (known := find_run(session, "faces")) is not None
        assert known.prompts == ("person", "a==b")  # as a command must give it now
    ids = write(filled, prompt_ids, 7, ["a=b", "a==b"])
    assert ids["a==b"] == 9 != ids["a=b"]


def test_rows_of_before_there_were_boxes_have_none_and_are_matched_after_the_upgrade(filled: Sessions) -> None:
    migrate(filled, "0010")
    by_hand(filled, *PENDING_IMAGE, "UPDATE chunk SET images = 3, state = 'pending'", "UPDATE run SET state = 'active'")
    upgrade(filled)

    assert [image.boxes for image in scenario.claim(filled, 7).images] == [()]
    scenario.read_again(
        filled, 7, [*scenario.rows("b.jpg", "a.jpg"), NewRow("c.jpg", boxes=((1.0, 2.0, 3.0, 4.0, True),))]
    )
    assert [image.boxes for image in scenario.images(filled, 7)] == [None, None, None, [[1.0, 2.0, 3.0, 4.0, True]]]
    assert scenario.run(filled, 7).box_column is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no sequence of PostgreSQL is touched
def test_ids_go_on_after_an_upgrade(filled: Sessions) -> None:
    upgrade(filled)

    assert scenario.load(filled, scenario.rows("a.jpg"), name="later") == 8


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("column", ["score", "x1", "y2"])
def test_no_database_takes_a_number_that_is_none(one_row: Sessions, column: str, number: str) -> None:
    with reading(one_row) as session:
        image_id = session.execute(select(Image.id)).scalar_one()
    values = {"score": 0.9, "x1": 0.0, "y1": 0.0, "x2": 4.0, "y2": 3.0} | {column: float(number)}

    with pytest.raises(IntegrityError), one_row.begin() as session:
        session.add(Instance(image_id=image_id, prompt_id=1, rank=0, area=9, rle=b"ok", **values))


def test_a_prompt_can_be_added_to_a_run_that_the_release_before_has_done(filled: Sessions) -> None:
    migrate(filled, "0012")
    upgrade(filled)

    assert scenario.change_prompts(filled, 7, add=["hat"]) == 2
    with reading(filled) as session:
        assert differences(session) == []
        assert session.execute(select(func.count()).select_from(Instance)).scalar_one() == 1
    assert scenario.chunk(filled, 5).incomplete == 0


@pytest.fixture
def second(filled: Sessions, stages: Path) -> Sessions:
    """The same database as the second revision left it."""
    bring(filled, stages / "second", "0002")
    return filled


def by_hand(sessions: Sessions, *statements: str) -> None:
    with sessions.begin() as session:
        for statement in statements:
            session.execute(text(statement))


PENDING_IMAGE = (
    "UPDATE run SET images = 3",
    "INSERT INTO image (id, run_id, \"row\", load, path, state, chunk_id) VALUES (13, 7, 3, 1, 'c.jpg', 'pending', 5)",
)


def test_a_filled_database_of_the_second_revision_is_upgraded_with_its_rows(second: Sessions) -> None:
    upgrade(second)

    with reading(second) as session:
        assert differences(session) == []
        assert (session.query(Run).count(), session.query(Chunk).count(), session.query(Image).count()) == (1, 1, 2)
        [chunk] = session.execute(select(Chunk)).scalars()
        assert (chunk.node, chunk.started_at, chunk.forward_seconds) == (None, None, 0.0)
        assert session.execute(select(Run.versions)).scalar_one() is None


@pytest.mark.parametrize(
    "wrong",
    ["segmented = 5", "empty = -1", "images = 1", "failed = 1", "capped = 9", "state = 'failed', images = 4"],
)
def test_counters_that_cannot_be_true_are_counted_again_by_the_upgrade(second: Sessions, wrong: str) -> None:
    by_hand(second, f"UPDATE chunk SET {wrong}", "UPDATE run SET duplicates = 3, rejected = -1")

    upgrade(second)

    chunk = scenario.chunk(second, 5)
    assert (chunk.images, chunk.segmented, chunk.empty, chunk.instances, chunk.capped) == (2, 1, 1, 1, 1)
    run = scenario.run(second, 7)
    assert (run.images, run.duplicates, run.rejected) == (2, 0, 0)


@pytest.mark.parametrize(("state", "after"), [("done", "active"), ("cancelled", "cancelling")])
def test_an_image_left_pending_in_a_chunk_that_is_over_is_taken_up_by_the_upgrade(
    second: Sessions, state: str, after: str
) -> None:
    by_hand(second, *PENDING_IMAGE, "UPDATE chunk SET images = 3", f"UPDATE run SET state = '{state}'")

    upgrade(second)

    assert (scenario.run(second, 7).state, scenario.chunk(second, 5).state) == (after, "pending")
    with reading(second) as session:
        assert differences(session) == []


def test_a_running_chunk_without_a_lease_is_taken_back_after_the_upgrade(second: Sessions) -> None:
    running = "UPDATE chunk SET images = 3, state = 'running'"
    by_hand(second, *PENDING_IMAGE, running, "UPDATE run SET state = 'active', finished_at = NULL")

    upgrade(second)

    [held] = scenario.running(second)
    assert held.lease_over


def test_a_lease_of_a_chunk_that_does_not_run_is_ended_by_the_upgrade(second: Sessions) -> None:
    by_hand(second, "UPDATE chunk SET lease_until = 1.0")

    upgrade(second)

    assert scenario.chunk(second, 5).lease_until is None


@pytest.mark.parametrize(
    ("table", "wrong"),
    [("run", "state = 'odd'"), ("run", "threshold = 2"), ("chunk", "state = 'odd'"), ("image", "state = 'odd'")],
)
def test_what_only_a_person_can_put_right_stops_the_upgrade_in_one_line(
    second: Sessions, table: str, wrong: str
) -> None:
    by_hand(second, f"UPDATE {table} SET {wrong}")

    with pytest.raises(DatabaseUnusable, match=rf"^the row \d+ of table {table} was changed by hand .* try again$"):
        upgrade(second)

    with reading(second) as session:
        assert revision(session.connection()) == "0002"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no sequence of PostgreSQL is touched
def test_no_id_of_a_deleted_row_is_given_again_after_the_upgrade(second: Sessions) -> None:
    load = "INSERT INTO image (run_id, \"row\", load, path, state) VALUES (7, 9, 1, 'd.jpg', 'rejected')"
    by_hand(second, load)
    with reading(second) as session:
        given = session.execute(text("SELECT max(id) FROM image")).scalar_one()
    by_hand(second, f"DELETE FROM image WHERE id = {given}")

    upgrade(second)

    by_hand(second, load)
    with reading(second) as session:
        assert session.execute(text("SELECT max(id) FROM image")).scalar_one() > given
    by_hand(second, 'DELETE FROM image WHERE "row" = 9')


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


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_names_of_the_migrations_say_what_alembic_reads_in_them(sessions: Sessions) -> None:
    with reading(sessions) as session:
        script = ScriptDirectory.from_config(_config(session.connection()))

    assert newest_revision() == script.get_current_head()
    assert _known_revisions() == {migration.revision for migration in script.walk_revisions()}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_alembic_is_not_imported_for_a_database_that_is_up_to_date(database_url: str, sessions: Sessions) -> None:
    script = (
        "import sys; from db.migrate import ensure_schema; from db.session import connect;"
        f"ensure_schema(connect({database_url!r})); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PROJECT)


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


def test_an_upgrade_waits_for_one_that_has_not_committed(filled: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    made, go_on = Event(), Event()
    real = command.upgrade

    def hold_open(*args: Any) -> None:
        real(*args)
        made.set()
        go_on.wait(PATIENCE)

    monkeypatch.setattr(command, "upgrade", hold_open)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(upgrade, filled)
        assert made.wait(PATIENCE)
        second = threads.submit(upgrade, filled)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        go_on.set()
        first.result(PATIENCE)
        second.result(PATIENCE)


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


def test_ctrl_c_while_tables_are_made_stays_what_it_is(empty: Sessions) -> None:
    def interrupted() -> None:
        with without_foreign_keys(empty) as unchecked, unchecked() as session:
            session.connection().invalidate()  # as SQLAlchemy does then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
