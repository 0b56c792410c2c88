"""The database breaks, blocks, fills up or answers too late: patience where it helps, and never two results."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from db.migrate import upgrade
from db.models import Chunk
from db.session import Sessions, connect, write
from tests.db import audit, scenario
from tests.integration.faults import farm
from tests.postgresql import Postgresql
from tests.terminals import PATIENCE, Terminal, wait_until

IMAGES = 48
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def run_id(sessions: Sessions, tmp_path: Path) -> int:
    return farm.load(sessions, tmp_path / "in", IMAGES)


@on_postgresql
def test_a_server_that_restarts_in_the_middle_is_waited_for(
    here: Terminal, sessions: Sessions, run_id: int, postgresql: Postgresql
) -> None:
    """The server restarts twice."""
    worker = farm.start(here, "one", "--until-empty", slow=0.1)
    for _ in range(2):
        farm.some_results(sessions)
        postgresql.restart()
    worker.wait()
    farm.check(sessions, run_id)


@on_postgresql
def test_workers_outlive_a_server_that_only_reads_for_longer_than_a_lease(
    here: Terminal, sessions: Sessions, run_id: int, postgresql: Postgresql
) -> None:
    """As long as a failover takes: no attempt, no fault and no batch is lost, and each process says it once."""
    worker = farm.start(here, "one", "--until-empty", slow=0.1, FAKE_FAILPOINT="little_patience")
    farm.some_results(sessions)
    postgresql.only_read(True)
    try:
        wait_until(lambda: worker.output().count("waiting for the database") == 2, "launcher and node to say so")
        at_first = farm.results(sessions)
        wait_until(lambda: all(not is_held(chunk) for chunk in scenario.chunks(sessions, run_id)), "the lease's end")
        time.sleep(2)  # longer than one transaction is repeated
        assert farm.results(sessions) == at_first
    finally:
        postgresql.only_read(False)
    said = worker.wait()
    farm.check(sessions, run_id)
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}
    assert farm.forwards(here) == IMAGES + 1
    assert said.count("waiting for the database: cannot execute") == 2
    assert said.count("the database answers again") == 2
    assert "Traceback" not in said
    assert "fault" not in said


@on_postgresql
@pytest.mark.usefixtures("nobody_dies")
@pytest.mark.parametrize("failpoint", ["terminated_in_a_commit", "answer_lost_in_a_commit"])
def test_a_commit_of_unknown_outcome_is_looked_up_and_its_batch_kept_once(
    here: Terminal, sessions: Sessions, run_id: int, failpoint: str
) -> None:
    """Whether the batch is in or not, the same attempt goes on, and no image is computed twice."""
    farm.start(here, "one", "--until-empty", FAKE_FAILPOINT=failpoint).wait()
    assert (Path(here.environment["FAKE_MARKERS"]) / "in_a_batch").exists()
    farm.check(sessions, run_id)
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}
    assert farm.forwards(here) == IMAGES + 1


@on_postgresql
def test_a_row_that_somebody_else_has_locked_is_waited_for(
    here: Terminal, sessions: Sessions, run_id: int, database_url: str
) -> None:
    """The locks of half of the chunks, longer than a lease of these clocks."""
    worker = farm.start(here, "one", "--until-empty", slow=0.05)
    farm.some_results(sessions)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT id FROM chunk FOR UPDATE")
        time.sleep(5)
    worker.wait()
    farm.check(sessions, run_id)


@on_sqlite
def test_a_write_lock_that_somebody_else_keeps_is_waited_for_and_nobody_hears_of_it(
    here: Terminal, sessions: Sessions, run_id: int, database_url: str
) -> None:
    worker = farm.start(here, "one", "--until-empty", slow=0.05)
    farm.some_results(sessions)
    with sessions.kw["bind"].connect() as other, other.begin():  # BEGIN IMMEDIATE
        status = here.run("sam3-status", "faces")
        time.sleep(6)
    assert "faces" in status.stdout
    assert "locked" not in worker.wait()
    farm.check(sessions, run_id)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of its own that is soon full."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def is_held(chunk: Chunk) -> bool:
    """Whether somebody has a lease of the chunk that is not over; this machine's clock is the database's."""
    return chunk.lease_until is not None and chunk.lease_until > time.time()


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


@on_sqlite
def test_a_full_disk_pauses_the_run_and_fails_no_image(here: Terminal, small_disk: Path, tmp_path: Path) -> None:
    """It is told as a fault, without a traceback."""
    url = f"sqlite:///{small_disk / 'sam3.db'}"
    sessions = connect(url)
    upgrade(sessions)
    audit.install(sessions)
    run_id = farm.load(sessions, tmp_path / "in", IMAGES)
    worker = farm.start(here, "one", slow=0.05, SAM3_DATABASE_URL=url)
    farm.some_results(sessions)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        fill(ballast)
    wait_until(lambda: "database or disk is full" in worker.output(), "the fault")
    ballast.unlink()
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    worker.interrupt()
    worker.wait(code=130)
    sessions.kw["bind"].dispose()


@pytest.mark.usefixtures("nobody_dies")  # of those that are not killed: a dead owner's lease is not waited for
def test_three_reconcilers_ring_and_take_back_nothing_twice(here: Terminal, sessions: Sessions, run_id: int) -> None:
    """Three machines, each with a reconciler, and one of them loses its work again and again."""
    workers = [farm.start(here, name, slow=0.05) for name in ("one", "two", "three")]
    killed: list[int] = []
    for _ in range(3):
        farm.some_results(sessions)
        killed.append(farm.busy_child(sessions, but=killed))
        os.kill(killed[-1], signal.SIGKILL)
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    chunks = scenario.chunks(sessions, run_id)
    assert sum(chunk.fence for chunk in chunks) <= len(chunks) + 3
    for worker in workers:
        worker.interrupt()
        worker.wait(code=130)


@on_postgresql
def test_two_transactions_that_wait_for_each_other_both_get_through(sessions: Sessions, run_id: int) -> None:
    """The deadlock: PostgreSQL ends one of the two, which is then repeated."""
    barrier = threading.Barrier(2, timeout=PATIENCE)
    tries: list[int] = []

    def lock(session: Session, first: int, second: int) -> None:
        tries.append(first)
        select = "SELECT id FROM chunk WHERE number = {} FOR UPDATE"
        session.connection().exec_driver_sql(select.format(first))
        if len(tries) <= 2:
            barrier.wait()
        session.connection().exec_driver_sql(select.format(second))

    threads = [threading.Thread(target=write, args=(sessions, lock, *order)) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert len(tries) == 3


@on_postgresql
def test_the_url_of_this_database_is_never_shown_with_its_password(here: Terminal, database_url: str) -> None:
    """Whatever breaks, the canary stays in its cage."""
    wrong = make_url(database_url).set(password="canary", username="nobody-here")
    failed = here.run("sam3-status", code=3, SAM3_DATABASE_URL=wrong.render_as_string(hide_password=False))
    assert "canary" not in failed.stderr + failed.stdout
    assert len(failed.stderr.splitlines()) == 1
