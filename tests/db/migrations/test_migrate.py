"""Who brings a database to the newest schema, and when."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from db.migrate import _config, _known_revisions, ensure_schema, newest_revision, revision, upgrade
from db.refusals import DatabaseUnusable
from db.session import Sessions, reading, without_foreign_keys
from tests.db.processes import run_together
from tests.quick_start import PROJECT
from tests.terminals import PATIENCE

UPGRADE = """
import sys
from db.migrate import upgrade
from db.session import connect
sessions = connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
upgrade(sessions)
"""


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


def test_ctrl_c_while_tables_are_made_stays_what_it_is(empty: Sessions) -> None:
    def interrupted() -> None:
        with without_foreign_keys(empty) as unchecked, unchecked() as session:
            session.connection().invalidate()  # as SQLAlchemy does then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
