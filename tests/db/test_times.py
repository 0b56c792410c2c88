"""The database's clock jumps, or stood still while a laptop slept: simulated by moving every time that is stored."""

import time

import pytest
from sqlalchemy import select, update

from db import claims, doorbells, named_leases, presence
from db.models import Chunk, Lease, Worker
from db.presence import Process
from db.session import Sessions, read, write
from db.times import LONGEST_SECONDS, now
from db.views import status
from tests.db import scenario
from tests.db.scenario import claim, commit_all, load, numbered
from workers.settings import Settings

HOUR = 3600.0
JUMPS = [3 * HOUR, -25 * HOUR]  # how far stored times lie ahead: the clock was set back; the machine slept for a day
ME = Process("here", "boot-1", 100, 7)
OTHER = Process("there", "boot-2", 100, 7)


def shift(sessions: Sessions, seconds: float) -> None:
    """Move what is stored into the future, as it looks once the clock was set back; or into the past."""
    times = [(Chunk, "lease_until"), (Chunk, "not_before"), (Worker, "heartbeat"), (Lease, "until")]
    with sessions.begin() as session:
        for table, column in times:
            session.execute(update(table).values({column: getattr(table, column) + seconds}))


@pytest.mark.parametrize("jump", JUMPS)
def test_the_chunk_of_a_worker_that_is_gone_is_taken_back_after_the_clock_jumped(
    sessions: Sessions, jump: float
) -> None:
    run_id = load(sessions, numbered(4))
    claim(sessions, run_id)
    assert not scenario.running(sessions)[0].lease_over

    shift(sessions, jump)

    [held] = scenario.running(sessions)
    assert held.lease_over
    assert write(sessions, claims.take_back, held, crashed=True)
    commit_all(sessions, claim(sessions, run_id), 0.9)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_live_worker_renews_what_it_holds_and_loses_nothing(sessions: Sessions, jump: float) -> None:
    run_id = load(sessions, numbered(4))
    mine = claim(sessions, run_id)
    shift(sessions, jump)
    [seen] = scenario.running(sessions)

    assert write(sessions, claims.heartbeat, mine)

    assert not write(sessions, claims.take_back, seen, crashed=True)  # by whoever looked before
    assert not scenario.running(sessions)[0].lease_over
    commit_all(sessions, mine, 0.9)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_batch_that_is_taken_back_meanwhile_is_computed_again_and_recorded_once(
    sessions: Sessions, jump: float
) -> None:
    run_id = load(sessions, numbered(4))
    mine = claim(sessions, run_id)
    shift(sessions, jump)
    assert write(sessions, claims.take_back, scenario.running(sessions)[0], crashed=False)

    with pytest.raises(claims.LeaseLost):
        commit_all(sessions, mine, 0.9)

    commit_all(sessions, claim(sessions, run_id), 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 4


@pytest.mark.parametrize("jump", JUMPS)
def test_a_named_lease_of_before_the_jump_is_free(sessions: Sessions, jump: float) -> None:
    assert write(sessions, named_leases.acquire_lease, "reconciler", OTHER, 45)
    assert not write(sessions, named_leases.acquire_lease, "reconciler", ME, 45)

    shift(sessions, jump)

    assert write(sessions, named_leases.acquire_lease, "reconciler", ME, 45)
    assert not write(sessions, named_leases.acquire_lease, "reconciler", OTHER, 45)


def test_a_rest_that_seems_to_last_for_hours_is_over(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    [chunk] = scenario.chunks(sessions, run_id)
    scenario.change_chunk(sessions, chunk.id, not_before=now() + 300)
    assert write(sessions, doorbells.ring_pending, run_id, 10) == []
    assert read(sessions, status.progress, run_id).next_retry_seconds

    shift(sessions, 3 * HOUR)

    assert read(sessions, status.progress, run_id).next_retry_seconds is None
    assert len(write(sessions, doorbells.ring_pending, run_id, 10)) == 1


@pytest.mark.parametrize("jump", JUMPS)
def test_a_worker_is_live_after_a_jump_only_when_it_says_so_again(sessions: Sessions, jump: float) -> None:
    worker_id = write(sessions, presence.register, "gpu0@here", ME)
    shift(sessions, jump)
    assert read(sessions, presence.live_workers) == 0
    assert read(sessions, status.workers) == []

    assert write(sessions, presence.report, worker_id, state="idle")

    assert read(sessions, presence.live_workers) == 1


def test_workers_of_a_clock_that_was_a_day_ahead_are_forgotten(sessions: Sessions) -> None:
    write(sessions, presence.register, "gpu0@here", ME)
    shift(sessions, 25 * HOUR)

    write(sessions, presence.forget_old_workers)

    with sessions.begin() as session:
        assert session.execute(select(Worker)).all() == []


def test_no_setting_asks_for_a_lease_or_a_rest_that_would_not_be_believed() -> None:
    longest = {"lease_seconds": 1, "reconcile_seconds": 3, "fault_pause_seconds": 6}  # as rounds and pauses are counted
    for name, times in longest.items():
        [limit] = [at_most for at_most in Settings.model_fields[name].metadata if hasattr(at_most, "le")]
        assert limit.le * times <= LONGEST_SECONDS


def test_the_clock_is_the_seconds_since_1970_and_moves_inside_a_transaction(sessions: Sessions) -> None:
    with sessions() as session:
        first = session.execute(select(now())).scalar_one()
        time.sleep(0.02)
        second = session.execute(select(now())).scalar_one()

    assert abs(first - time.time()) < 5
    assert 0.01 < second - first < 5
