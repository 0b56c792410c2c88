"""What the reconciler puts right of dead and silent owners, and what stops it, with processes that are really dead."""

import threading
import time
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from db import claims, presence
from db.presence import Process
from db.session import Sessions, reading
from tests.db import scenario
from tests.terminals import PATIENCE, wait_until
from tests.workers.fleet.reconciling import Other, claimed_by, holder, on_sqlite, start
from workers.broker.connection import Doorbells
from workers.errors import Unreachable
from workers.fleet.processes import Fate, is_dead, this_process
from workers.fleet.reconcile import Reconciler


@on_sqlite
def test_the_chunk_of_a_dead_process_is_taken_over_at_once(
    reconciler: Reconciler, sessions: Sessions, other: Other, doorbells: Doorbells
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, other.identity)
    reconciler.step()
    assert scenario.chunk(sessions, claim.chunk_id).state == "running"
    assert doorbells.chunks() == set()
    other.kill()
    reconciler.step()
    chunk = scenario.chunk(sessions, claim.chunk_id)
    assert (chunk.state, chunk.crashes, chunk.attempts) == ("queued", 1, 1)
    assert doorbells.chunks() == {chunk.id}
    with reading(sessions) as session:
        assert presence.registered_on(session, other.identity.host, other.identity.boot) == []
    with pytest.raises(claims.LeaseLost):
        scenario.commit_all(sessions, claim)


@on_sqlite
def test_a_worker_that_hangs_loses_its_chunk_and_then_its_process(
    reconciler: Reconciler, sessions: Sessions, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, other.identity)
    reconciler._settings = reconciler._settings.model_copy(update={"lease_seconds": 0.3})
    reconciler.step()
    time.sleep(0.4)
    reconciler.step()
    assert not is_dead(other.identity)  # its lease is good
    scenario.lease_runs_out(sessions, claim)
    reconciler.step()
    assert scenario.chunk(sessions, claim.chunk_id).state == "queued"
    assert not is_dead(other.identity)  # it may still notice by itself
    time.sleep(0.4)
    reconciler.step()
    wait_until(lambda: is_dead(other.identity), "its end")
    assert "cpu0@here hangs: its process" in caplog.text


@on_sqlite
def test_a_worker_whose_run_was_cancelled_may_finish_a_long_batch_before_it_counts_as_hanging(
    reconciler: Reconciler, sessions: Sessions, other: Other
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claimed_by(sessions, run_id, other.identity)
    scenario.cancel(sessions, run_id)
    reconciler._settings = reconciler._settings.model_copy(update={"lease_seconds": 0.1, "stall_seconds": 600})
    for _ in range(2):
        reconciler.step()
        time.sleep(0.3)
    assert not is_dead(other.identity)
    reconciler._settings = reconciler._settings.model_copy(update={"stall_seconds": 0.1})
    reconciler.step()
    wait_until(lambda: is_dead(other.identity), "its end")


@on_sqlite
def test_a_lapsed_lease_of_another_machine_is_taken_back(
    reconciler: Reconciler, sessions: Sessions, doorbells: Doorbells
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, Process("elsewhere", "boot", 1, 7))
    reconciler.step()
    assert scenario.chunk(sessions, claim.chunk_id).state == "running"
    scenario.lease_runs_out(sessions, claim)
    reconciler.step()
    assert scenario.chunk(sessions, claim.chunk_id).state == "queued"
    assert doorbells.chunks() == {claim.chunk_id}


@on_sqlite
def test_a_chunk_whose_owner_has_no_row_is_not_taken_back_before_its_lease_is_over(
    reconciler: Reconciler, sessions: Sessions
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = scenario.claim(sessions, run_id, worker_id=4711)
    reconciler.step()
    assert scenario.chunk(sessions, claim.chunk_id).state == "running"
    assert scenario.commit_all(sessions, claim)


@on_sqlite
@pytest.mark.parametrize("lives", [True, False])
def test_a_process_is_only_ended_for_hanging_if_it_is_certainly_the_one_that_hangs(
    reconciler: Reconciler, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """Its number may be that of somebody else's process by now."""
    monkeypatch.setattr("workers.fleet.reconcile.fate", lambda process: Fate.ALIVE if lives else Fate.UNKNOWN)
    killed: list[int] = []
    monkeypatch.setattr("workers.fleet.reconcile.os.kill", lambda pid, number: killed.append(pid))
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, this_process())
    scenario.lease_runs_out(sessions, claim)
    reconciler._settings = reconciler._settings.model_copy(update={"lease_seconds": 0.0})
    reconciler.step()
    assert killed == ([this_process().pid] if lives else [])


@on_sqlite
@pytest.mark.parametrize(("alive", "error_class"), [(False, "crashed"), (True, "gave_up")])
def test_the_fifth_attempt_without_progress_fails_the_images_by_what_became_of_their_worker(
    reconciler: Reconciler, sessions: Sessions, alive: bool, error_class: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2))
    process = this_process() if alive else replace(this_process(), started=1)
    claim = claimed_by(sessions, run_id, process)
    scenario.change_chunk(sessions, claim.chunk_id, attempts=claims.MAX_ATTEMPTS)
    scenario.lease_runs_out(sessions, claim)
    reconciler.step()
    assert {image.error_class for image in scenario.images(sessions, run_id)} == {error_class}
    assert scenario.run(sessions, run_id).state == "done"


@on_sqlite
def test_a_database_that_a_later_release_has_upgraded_ends_it_before_it_changes_a_row(
    sessions: Sessions, reconciler: Reconciler
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(1))
    with sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    reconciler.run(threading.Event())

    assert "the database is newer than this program" in str(reconciler.fault)
    assert [chunk.state for chunk in scenario.chunks(sessions, run_id)] == ["pending"]


@on_sqlite
def test_a_broker_that_is_away_is_one_warning_a_round_and_dead_owners_are_buried_all_the_same(
    sessions: Sessions, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, other.identity)
    other.kill()
    reconciler = start(sessions, "redis://:canary@127.0.0.1:1/0")
    with pytest.raises(Unreachable):
        reconciler.step()
    assert scenario.chunk(sessions, claim.chunk_id).state == "queued"
    assert all("canary" not in record.getMessage() and record.exc_info is None for record in caplog.records)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_goes_away_is_waited_for(
    sessions: Sessions,
    broker_url: str,
    database_url: str,
    postgresql_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("db.patience.RETRY_SECONDS", 1.0)  # a round fails after that long
    stop = threading.Event()
    reconciler = start(sessions, broker_url)
    reconciler._settings = reconciler._settings.model_copy(
        update={"reconcile_seconds": 0.1}
    )  # a round soon comes again
    running = threading.Thread(target=reconciler.run, args=(stop,))
    running.start()
    name = make_url(database_url).database
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        try:
            wait_until(lambda: holder(sessions) == this_process(), "the leader")
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            wait_until(lambda: "waits for the database" in caplog.text, "a failing round")
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        try:
            assert running.is_alive()
            run_id = scenario.load(sessions, scenario.numbered(4))
            wait_until(lambda: scenario.chunks(sessions, run_id)[0].state == "queued", "its next round")
        finally:
            stop.set()
            running.join(PATIENCE)
    assert all(record.exc_info is None for record in caplog.records)
