"""A database that goes away while somebody reads it: waited for, for a while, and then told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from db.session import Sessions, read
from db.views.rows import PAGE_ROWS
from db.views.run_views import run_view
from producer.cli.export import main as export
from producer.cli.status import main as status
from producer.results.choice import Choice
from producer.results.common import ExportRequest, read_images
from producer.results.exports.csv_file import export_csv
from tests.db.scenario import load, numbered, work_off
from tests.postgresql import Postgresql
from tests.producer.cli.conftest import Shell
from tests.terminals import Terminal, wait_until

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def person(terminal: Terminal, database_url: str) -> Terminal:
    terminal.environment["SAM3_DATABASE_URL"] = database_url
    return terminal


@pytest.fixture
def impatient(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The database, of commands that wait only half a second for it."""
    monkeypatch.setattr("db.patience.RETRY_SECONDS", 0.5)
    monkeypatch.setenv("SAM3_DATABASE_URL", database_url)
    yield database_url
    admit(database_url, everybody=True)


def admit(database_url: str, *, everybody: bool) -> None:
    """Let everybody in again, or throw everybody out."""
    url = make_url(database_url)
    with psycopg.connect(url.set(database="postgres").render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS {str(everybody).lower()}")
        if not everybody:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [url.database])


@on_postgresql
@pytest.mark.parametrize("flag", ["--wait", "--watch"])
def test_who_waits_for_a_run_outlives_a_restart_of_the_server(
    person: Terminal, sessions: Sessions, postgresql: Postgresql, flag: str
) -> None:
    run_id = load(sessions, numbered(8))
    with held_at_its_first_look(postgresql, sessions):
        waiting = person.start("sam3-status", "faces", flag)

    postgresql.restart()
    work_off(sessions, run_id, 0.9)

    told = waiting.wait()
    assert "(done)" in told
    assert "Traceback" not in told


@contextmanager
def held_at_its_first_look(postgresql: Postgresql, sessions: Sessions) -> Iterator[None]:
    """Hold the command that is started here at its first look at the workers, until it is certain to be there.

    Only from then on it waits for a server that goes away: before, it is told at once that a database is not there.
    """
    name = sessions.kw["bind"].url.database
    look = "datname = %s AND wait_event_type = 'Lock' AND query LIKE '%%FROM worker%%'"
    waiting = f"SELECT 1 FROM pg_stat_activity WHERE {look}"
    with (
        psycopg.connect(postgresql.url, dbname=name) as holder,
        psycopg.connect(postgresql.url, autocommit=True) as admin,
    ):
        holder.execute("LOCK TABLE worker IN ACCESS EXCLUSIVE MODE")
        yield
        wait_until(lambda: admin.execute(waiting, [name]).fetchone(), "sam3-status to look at the workers")


@on_postgresql
def test_an_export_outlives_a_restart_in_its_middle(sessions: Sessions, postgresql: Postgresql, tmp_path: Path) -> None:
    run_id = load(sessions, numbered(2 * PAGE_ROWS), chunk_size=512)
    work_off(sessions, run_id, 0.9)
    view = read(sessions, run_view, run_id)
    assert view is not None
    request = ExportRequest(view, Choice(0.5), tmp_path / "faces.csv")

    def restart(done: int) -> None:
        if done == 10:
            postgresql.restart()

    summary = export_csv(request, read_images(sessions, request), restart)

    assert (summary.images, summary.instances) == (2 * PAGE_ROWS, 2 * PAGE_ROWS)
    assert len((tmp_path / "faces.csv").read_text().splitlines()) == 2 * PAGE_ROWS + 1


@on_postgresql
def test_who_waits_is_told_of_a_database_that_stays_away_and_goes_on_when_it_is_back(
    shell: Shell, sessions: Sessions, impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = load(sessions, numbered(8))
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if line.startswith("waiting for the database"):
            admit(impatient, everybody=True)
            work_off(sessions, run_id, 0.9)

    monkeypatch.setattr("producer.cli.standing.say", tell)
    monkeypatch.setattr("producer.cli.standing.time.sleep", lambda seconds: admit(impatient, everybody=bool(said)))

    assert "(done)" in shell(status, "faces", "--wait").out

    first, second, last = said
    name = make_url(impatient).database
    assert first.startswith("waiting for the database: cannot use the database postgresql://")
    assert f'database "{name}" is not currently accepting connections' in first
    assert (second, last[:5]) == ("the database answers again", "Next:")


@pytest.mark.long
@on_postgresql
def test_an_export_that_waited_in_vain_says_how_to_go_on_and_leaves_no_half_file(
    shell: Shell, sessions: Sessions, impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = load(sessions, numbered(PAGE_ROWS + 10), chunk_size=512)
    work_off(sessions, run_id, 0.9)
    monkeypatch.setattr("producer.cli.exported.Meter.tell", lambda *_: admit(impatient, everybody=False))

    error = shell(export, "faces", "--format", "csv", "-o", "faces.csv", code=3).error

    assert "is not currently accepting connections" in error
    assert error.endswith("; once it answers, the same command again begins faces.csv anew")
    assert list(shell.home.iterdir()) == []
