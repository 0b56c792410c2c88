"""Pause, resume, priority and share of a run, on SQLite and on PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from db import claims, doorbells, intake, presence, runs, steering
from db.claims import Next
from db.doorbells import Call
from db.session import Sessions, read, write
from db.states import WorkerState
from tests.db import scenario
from tests.db.scenario import claim, done, failed, load, numbered, try_claim
from tests.terminals import PATIENCE


def pause(sessions: Sessions, run_id: int, why: str = steering.BY_HAND) -> bool:
    return write(sessions, steering.pause, run_id, why)


def resume(sessions: Sessions, run_id: int) -> str | None:
    return write(sessions, steering.resume, run_id)


def steer(sessions: Sessions, run_id: int, **values: Any) -> None:
    write(sessions, partial(steering.steer, **values), run_id)


def test_nothing_of_a_paused_run_is_rung_or_claimed_until_it_is_resumed(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    [rung] = write(sessions, doorbells.ring_pending, run_id, 1)

    assert pause(sessions, run_id)

    assert write(sessions, claims.claim, run_id, rung.chunk_id, 1) is None
    assert write(sessions, doorbells.ring_pending, run_id, 10) == []
    assert read(sessions, steering.turns) == []
    assert read(sessions, doorbells.queued_doorbells) == []
    assert resume(sessions, run_id) == steering.BY_HAND
    assert read(sessions, doorbells.queued_doorbells) == [(rung.chunk_id, 1)]
    assert write(sessions, claims.claim, run_id, rung.chunk_id, 1) is not None
    assert len(write(sessions, doorbells.ring_pending, run_id, 10)) == 1


def test_the_batch_in_hand_of_a_paused_run_is_committed_and_the_rest_given_back(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    assert write(sessions, claims.commit, held, [done(held.images[0], 0.9)]) is Next.GO_ON

    pause(sessions, run_id)

    assert write(sessions, claims.heartbeat, held)
    assert write(sessions, claims.commit, held, [done(held.images[1], 0.9)]) is Next.GIVE_BACK
    write(sessions, claims.release, held)
    assert scenario.states(sessions, run_id) == ["done", "done", "pending", "pending"]
    resume(sessions, run_id)
    again = claim(sessions, run_id)
    assert [image.row for image in again.images] == [3, 4]
    assert scenario.chunk(sessions, held.chunk_id).attempts == 1  # the one before was given back


def test_a_run_that_ends_while_it_is_paused_is_over_and_a_retry_of_it_goes_on(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    pause(sessions, run_id)

    assert scenario.commit(sessions, held, [failed(image) for image in held.images])

    assert (scenario.run(sessions, run_id).state, scenario.run(sessions, run_id).paused) == ("done", None)
    scenario.retry(sessions, run_id)
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 4


@pytest.mark.parametrize("stopped", ["done", "cancelled", "cancelling", "deleting"])
def test_a_run_that_is_over_or_being_stopped_cannot_be_paused(sessions: Sessions, stopped: str) -> None:
    run_id = load(sessions, numbered(4))
    stops: dict[str, Callable[[Sessions, int], object]] = {
        "done": scenario.work_off,
        "cancelled": scenario.cancel,
        "cancelling": scenario.begin_cancel,
        "deleting": scenario.begin_delete,
    }
    stops[stopped](sessions, run_id)

    assert not pause(sessions, run_id)

    run = scenario.run(sessions, run_id)
    assert (run.state, run.paused) == (stopped, None)


def test_the_first_reason_of_a_pause_stays(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    pause(sessions, run_id, "for the night")

    assert not pause(sessions, run_id)

    assert resume(sessions, run_id) == "for the night"
    assert resume(sessions, run_id) is None


def test_a_run_can_be_paused_while_it_loads_and_while_it_grows(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)
    write(sessions, intake.begin_reading, run_id, 1, 1, ["path"])
    scenario.add(sessions, run_id, numbered(4))
    assert pause(sessions, run_id)

    scenario.finish(sessions, run_id)
    assert try_claim(sessions, run_id) is None
    scenario.read_again(sessions, run_id, numbered(8))
    assert try_claim(sessions, run_id) is None

    resume(sessions, run_id)
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 8


def test_a_paused_run_can_be_retried_and_stays_paused(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [failed(image) for image in held.images])
    pause(sessions, run_id)

    assert scenario.retry(sessions, run_id) == 4

    assert try_claim(sessions, run_id) is None
    resume(sessions, run_id)
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 8


def test_a_paused_run_can_be_cancelled_and_taken_up_again(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    pause(sessions, run_id)

    assert scenario.cancel(sessions, run_id) == 4

    assert scenario.run(sessions, run_id).paused is None
    write(sessions, runs.reopen, run_id)
    scenario.retry(sessions, run_id)
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 4


def test_a_paused_run_can_be_deleted(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    pause(sessions, run_id)

    assert scenario.delete(sessions, run_id) == 4


def test_runs_are_listed_by_priority_with_what_they_have_queued_and_running(sessions: Sessions) -> None:
    low, high = load(sessions, numbered(8), "low"), load(sessions, numbered(8), "high")
    steer(sessions, high, priority=5, share=0.5)
    claim(sessions, high)
    write(sessions, doorbells.ring_pending, high, 1)

    first, second = read(sessions, steering.turns)

    assert (first.run_id, first.priority, first.share) == (high, 5, 0.5)
    assert (first.queued, first.running, first.is_due) == (1, 1, False)
    assert (second.run_id, second.queued, second.running, second.is_due) == (low, 0, 0, True)


@pytest.mark.parametrize("wrong", [{"priority": 11}, {"priority": -11}, {"share": 0.0}, {"share": 1.5}])
def test_no_database_takes_a_turn_that_means_nothing(sessions: Sessions, wrong: dict[str, Any]) -> None:
    run_id = load(sessions, numbered(1))

    with pytest.raises(IntegrityError, match="ck_run_turn"):
        steer(sessions, run_id, **wrong)


def test_a_share_is_never_exceeded_however_many_ring_at_once(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(20), chunk_size=1)
    together = Barrier(4)

    def ring(_: int) -> int:
        together.wait(PATIENCE)
        return len(write(sessions, doorbells.ring_pending, run_id, 10, 3))

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(ring, range(4))) == 3
    rung = [chunk for chunk in scenario.chunks(sessions, run_id) if chunk.state == "queued"]
    assert write(sessions, claims.claim, run_id, rung[0].id, 1) is not None
    assert ring_more(sessions, run_id) == 0  # it is running, so its place is taken
    write(sessions, doorbells.unqueue, rung[1].id)
    assert ring_more(sessions, run_id) == 1


def ring_more(sessions: Sessions, run_id: int) -> int:
    return len(write(sessions, doorbells.ring_pending, run_id, 10, 3))


def test_a_doorbell_is_outranked_while_one_of_a_higher_priority_waits(sessions: Sessions) -> None:
    low, high = load(sessions, numbered(4), "low"), load(sessions, numbered(4), "high")
    steer(sessions, high, priority=1)
    [mine] = write(sessions, doorbells.ring_pending, low, 1)

    def asks(*without: int) -> Call:
        return read(sessions, doorbells.call_of, low, mine.chunk_id, without)

    assert asks() is Call.ITS_TURN
    [theirs] = write(sessions, doorbells.ring_pending, high, 1)
    assert asks() is Call.OUTRANKED
    assert asks(high) is Call.ITS_TURN  # the asking worker cannot serve that run
    assert read(sessions, doorbells.call_of, high, theirs.chunk_id) is Call.ITS_TURN
    pause(sessions, high)
    assert asks() is Call.ITS_TURN
    resume(sessions, high)
    loads = {"state": WorkerState.LOADING, "run_id": high, "chunk_id": theirs.chunk_id}
    write(sessions, partial(presence.report, **loads), scenario.worker(sessions))
    assert asks() is Call.ITS_TURN  # somebody has answered it and loads the model
    steer(sessions, high, priority=0)
    assert asks() is Call.ITS_TURN
    write(sessions, doorbells.unqueue, mine.chunk_id)
    assert asks() is Call.LATE
