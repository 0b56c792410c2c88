"""Doorbells that a broker lost, or that nobody answers any more, are rung again by the reconciler."""

import time

import redis

from db import claims, presence
from db.session import Sessions, write
from tests.db import scenario
from tests.workers import runs
from tests.workers.fleet.reconciling import ABSENT_SECONDS, Other, claimed_by, on_sqlite
from workers.broker.connection import Doorbells
from workers.fleet.processes import this_process
from workers.fleet.reconcile import Reconciler


def forget(url: str) -> None:
    """The broker loses everything that it was told."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


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
