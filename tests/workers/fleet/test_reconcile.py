"""What the reconciler puts right, with a real broker, real databases and processes that are really dead."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from db import claims, named_leases, presence, prompts
from db.claims import Claim
from db.models import Image, Run
from db.presence import Process
from db.runs import begin_delete, cancel_run
from db.session import Sessions, reading, write
from tests.db import scenario
from tests.terminals import PATIENCE, wait_until
from tests.workers import runs
from workers.broker.connection import Doorbells
from workers.errors import Unreachable
from workers.fleet.dispatch import publisher
from workers.fleet.processes import Fate, is_dead, this_process
from workers.fleet.reconcile import LEASE, Reconciler
from workers.settings import Settings

ABSENT_SECONDS = 0.2
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Start = Callable[..., Reconciler]


@pytest.fixture
def reconciler(sessions: Sessions, broker_url: str) -> Reconciler:
    return start(sessions, broker_url)


def start(sessions: Sessions, url: str, me: Process | None = None) -> Reconciler:
    settings = Settings(broker_url=url, absent_seconds=ABSENT_SECONDS)
    app = runs.app(sessions, url)
    made = Reconciler(sessions, publisher(app), Doorbells(app), settings)
    if me is not None:
        made._me = me
    return made


@pytest.fixture
def doorbells(sessions: Sessions, broker_url: str) -> Doorbells:
    return Doorbells(runs.app(sessions, broker_url))


@pytest.fixture
def other() -> Iterator["Other"]:
    other = Other()
    yield other
    other.kill()


class Other:
    """Another process of this machine."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["/bin/sleep", "60"])
        started = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        self.identity = replace(this_process(), pid=self._process.pid, started=int(started))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def claimed_by(sessions: Sessions, run_id: int, process: Process) -> Claim:
    worker_id = write(sessions, presence.register, "cpu0@here", process)
    claim = scenario.claim(sessions, run_id, worker_id=worker_id)
    write(sessions, presence.report, worker_id, state="running", run_id=run_id, chunk_id=claim.chunk_id)
    return claim


def forget(url: str) -> None:
    """The broker loses everything that it was told."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


@on_sqlite
@pytest.mark.parametrize("holder", ["nobody", "a dead command", "a living command"])
def test_a_change_of_prompts_is_finished_in_rounds_unless_its_command_lives(
    reconciler: Reconciler, sessions: Sessions, other: Other, holder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(12))
    scenario.work_off(sessions, run_id, 0.9)
    write(sessions, prompts.change_prompts, run_id, ["hat"], [])
    if holder != "nobody":
        write(sessions, named_leases.acquire_lease, named_leases.load_lease(run_id), other.identity, 60.0)
    if holder == "a dead command":
        other.kill()
    monkeypatch.setattr("db.slices.slice_rows", lambda sessions: 4)
    monkeypatch.setattr("workers.fleet.reconcile.FINISHING_SHARE", 0.0)  # each round has time for one slice

    reconciler.step()

    assert scenario.states(sessions, run_id).count("pending") == (0 if holder == "a living command" else 4)
    reconciler.step()
    reconciler.step()
    assert scenario.run(sessions, run_id).unsettled == (holder == "a living command")


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
def test_a_chunk_whose_doorbell_a_dead_process_had_answered_is_rung_again_at_once(
    reconciler: Reconciler, sessions: Sessions, other: Other, doorbells: Doorbells
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)  # the message itself is gone: it was answered
    worker_id = write(sessions, presence.register, "cpu0@here", other.identity)
    write(sessions, presence.report, worker_id, state="loading", run_id=run_id, chunk_id=rung.chunk_id)
    other.kill()
    reconciler.step()
    assert doorbells.chunks() == {rung.chunk_id}
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.ring, chunk.crashes) == (2, 0)


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
def test_a_chunk_that_rests_is_rung_when_its_time_has_come(
    reconciler: Reconciler, sessions: Sessions, doorbells: Doorbells
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, this_process())
    write(sessions, claims.fail_attempt, claim, "RuntimeError: out of luck")
    reconciler.step()
    assert doorbells.chunks() == set()
    scenario.rest_is_over(sessions, claim.chunk_id)
    reconciler.step()
    assert doorbells.chunks() == {claim.chunk_id}


@on_sqlite
def test_doorbells_that_a_broker_forgot_are_rung_again_once_they_are_missed_twice(
    reconciler: Reconciler, sessions: Sessions, doorbells: Doorbells, broker_url: str
) -> None:
    for pid in range(1, 4):  # whose windows have room for all
        scenario.worker(sessions, pid)
    run_id = scenario.load(sessions, scenario.numbered(5), chunk_size=1)
    reconciler.step()
    every = {chunk.id for chunk in scenario.chunks(sessions, run_id)}
    assert doorbells.chunks() == every
    forget(broker_url)
    reconciler.step()
    assert doorbells.count() == 0  # one look can miss a message that is moving
    time.sleep(ABSENT_SECONDS)
    reconciler.step()
    assert (doorbells.chunks(), doorbells.count()) == (every, 5)
    time.sleep(ABSENT_SECONDS)
    for _ in range(3):
        reconciler.step()
    assert doorbells.count() == 5
    assert {chunk.ring for chunk in scenario.chunks(sessions, run_id)} == {2}


@on_sqlite
def test_one_lost_doorbell_among_others_is_rung_again_alone(
    reconciler: Reconciler, sessions: Sessions, doorbells: Doorbells, broker_url: str
) -> None:
    for pid in range(1, 4):  # whose windows have room for all
        scenario.worker(sessions, pid)
    run_id = scenario.load(sessions, scenario.numbered(3), chunk_size=1)
    reconciler.step()
    with redis.Redis.from_url(broker_url) as client:
        client.rpop(runs.queue(sessions))  # the oldest: a node took it and died before it was marked as taken
    for _ in range(2):
        reconciler.step()
        time.sleep(ABSENT_SECONDS)
    reconciler.step()
    assert doorbells.count() == 3
    assert [chunk.ring for chunk in scenario.chunks(sessions, run_id)] == [2, 1, 1]


@on_sqlite
def test_a_doorbell_that_was_only_missed_once_is_left_alone(
    reconciler: Reconciler, sessions: Sessions, doorbells: Doorbells, broker_url: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2), chunk_size=1)
    reconciler.step()
    with redis.Redis.from_url(broker_url) as client:
        moving = client.rpop(runs.queue(sessions))
        reconciler.step()
        client.rpush(runs.queue(sessions), moving)
    time.sleep(ABSENT_SECONDS)
    reconciler.step()
    assert doorbells.count() == 2
    assert {chunk.ring for chunk in scenario.chunks(sessions, run_id)} == {1}


@on_sqlite
def test_what_killed_nodes_left_unacknowledged_does_not_hide_a_lost_doorbell(
    reconciler: Reconciler, sessions: Sessions, doorbells: Doorbells, broker_url: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(1))
    [rung] = runs.ring(sessions, run_id)
    with redis.Redis.from_url(broker_url) as client:
        client.hset(f"{runs.queue(sessions)}-unacked", "old", "[]")
        client.zadd(f"{runs.queue(sessions)}-unacked-index", {"old": time.time() - 3600})
    reconciler.step()
    time.sleep(ABSENT_SECONDS)
    reconciler.step()
    assert doorbells.chunks() == {rung.chunk_id}


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


@on_sqlite
def test_one_reconciler_acts_at_a_time(sessions: Sessions, broker_url: str, other: Other) -> None:
    first, second = start(sessions, broker_url, other.identity), start(sessions, broker_url)
    assert first.step()
    assert not second.step()
    assert first.step()


@on_sqlite
def test_a_dead_leader_of_this_machine_is_replaced_at_once(sessions: Sessions, broker_url: str, other: Other) -> None:
    first, second = start(sessions, broker_url, other.identity), start(sessions, broker_url)
    assert first.step()
    other.kill()
    assert second.step()


@on_sqlite
def test_a_silent_leader_of_another_machine_is_replaced_when_its_lease_is_over(
    sessions: Sessions, broker_url: str
) -> None:
    far = Process("elsewhere", "boot", 1, 7)
    second = start(sessions, broker_url)
    write(sessions, named_leases.acquire_lease, LEASE, far, 45.0)
    assert not second.step()
    write(sessions, named_leases.acquire_lease, LEASE, far, -1.0)
    assert second.step()


@on_sqlite
def test_a_leader_that_stops_looks_once_more_and_hands_over(sessions: Sessions, broker_url: str, other: Other) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, other.identity)
    leader, next_one = start(sessions, broker_url), start(sessions, broker_url, Process("elsewhere", "boot", 1, 7))
    stop = threading.Event()
    running = threading.Thread(target=leader.run, args=(stop,))
    running.start()
    wait_until(lambda: holder(sessions) == this_process(), "the leader")
    assert not next_one.step()
    other.kill()
    stop.set()
    running.join(PATIENCE)
    assert scenario.chunk(sessions, claim.chunk_id).state in ("pending", "queued")
    assert next_one.step()


def holder(sessions: Sessions) -> Process | None:
    with reading(sessions) as session:
        return named_leases.lease_holder(session, LEASE)


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


def test_what_a_killed_cancel_left_is_finished_part_by_part(
    reconciler: Reconciler, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 4)
    run_id = scenario.load(sessions, scenario.numbered(20))
    reconciler._settings = reconciler._settings.model_copy(update={"reconcile_seconds": 0.0})
    scenario.begin_cancel(sessions, run_id, chunks=1)
    reconciler.step()
    assert scenario.states(sessions, run_id) == ["cancelled"] * 8 + ["pending"] * 12
    assert scenario.run(sessions, run_id).state == "cancelling"
    for _ in range(3):
        assert scenario.run(sessions, run_id).finished_at is None
        reconciler.step()
    assert set(scenario.states(sessions, run_id)) == {"cancelled"}
    assert scenario.run(sessions, run_id).state == "cancelled"


def test_what_a_killed_delete_left_is_finished_and_nothing_else_is_touched(
    reconciler: Reconciler, sessions: Sessions
) -> None:
    rows = [*scenario.numbered(10), *scenario.numbered(2), scenario.REJECTED]
    kept, deleted = scenario.load(sessions, rows, "kept"), scenario.load(sessions, rows)
    scenario.begin_delete(sessions, deleted, chunks=1)
    reconciler.step()
    with reading(sessions) as session:
        assert session.execute(select(Run.id)).scalars().all() == [kept]
        assert session.execute(select(func.count()).where(Image.run_id == deleted)).scalar_one() == 0
    assert len(scenario.states(sessions, kept)) == 13


@pytest.mark.parametrize("begin", [cancel_run, begin_delete], ids=["cancel", "delete"])
def test_a_reconciler_and_a_living_command_finish_the_same_run_together(
    reconciler: Reconciler, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Session, int], object]
) -> None:
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 8)
    run_id = scenario.load(sessions, [*scenario.numbered(200), *scenario.numbered(20)])
    write(sessions, begin, run_id)
    start = threading.Barrier(2)

    def both(work: Callable[[], object]) -> None:
        start.wait()
        work()

    finish = scenario.cancel if begin is cancel_run else scenario.delete
    with ThreadPoolExecutor(2) as threads:
        told = [
            threads.submit(both, work)
            for work in (lambda: finish(sessions, run_id), lambda: [reconciler.step() for _ in range(5)])
        ]
        for one in told:
            one.result(60)
    with reading(sessions) as session:
        left = session.execute(select(Run.state)).scalars().all()
    assert left == (["cancelled"] if begin is cancel_run else [])
    assert not set(scenario.states(sessions, run_id)) - {"cancelled", "duplicate"}
