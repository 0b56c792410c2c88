"""Worker rows and named leases, on SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

from sqlalchemy import update

from db import doorbells, named_leases, presence
from db.models import Lease, Worker
from db.presence import Process
from db.session import Sessions, reading, write
from db.times import now
from db.views import status
from tests.db import scenario
from tests.db.scenario import claim, load, numbered

ME = Process("here", "boot-1", 100, 7)
OTHER = Process("there", "boot-2", 100, 7)


def test_a_registered_worker_is_live_until_it_is_buried(sessions: Sessions) -> None:
    worker_id = write(sessions, presence.register, "gpu0@here", ME)
    write(sessions, presence.register, "gpu0@there", OTHER)

    with reading(sessions) as session:
        assert presence.live_workers(session) == 2
        assert presence.registered_on(session, "here", "boot-1") == [presence.Registered(worker_id, "gpu0@here", ME)]
        assert presence.registered_on(session, "here", "boot-2") == []

    write(sessions, presence.mark_dead, worker_id)

    with reading(sessions) as session:
        assert presence.live_workers(session) == 1
        assert presence.registered_on(session, "here", "boot-1") == []


def test_a_worker_that_is_silent_for_a_minute_is_not_live(sessions: Sessions) -> None:
    worker_id = write(sessions, presence.register, "gpu0@here", ME)
    _silent(sessions, worker_id, presence.LIVE_SECONDS + 1)
    with reading(sessions) as session:
        assert presence.live_workers(session) == 0

    write(sessions, presence.report, worker_id, state="idle")

    with reading(sessions) as session:
        assert presence.live_workers(session) == 1


def test_a_chunk_whose_doorbell_a_dead_worker_had_answered_is_rung_again(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    answered, unanswered = write(sessions, doorbells.ring_pending, run_id, 10)
    worker_id = write(sessions, presence.register, "gpu0@here", ME)
    write(sessions, presence.report, worker_id, state="loading", run_id=run_id, chunk_id=answered.chunk_id)

    write(sessions, presence.mark_dead, worker_id)

    assert scenario.chunk(sessions, answered.chunk_id).state == "pending"
    assert scenario.chunk(sessions, unanswered.chunk_id).state == "queued"


def test_burying_the_owner_of_a_running_chunk_leaves_the_chunk_to_take_back(sessions: Sessions) -> None:
    worker_id = write(sessions, presence.register, "gpu0@here", ME)
    held = claim(sessions, load(sessions, numbered(4)), worker_id=worker_id)
    write(sessions, presence.report, worker_id, state="running", chunk_id=held.chunk_id)

    write(sessions, presence.mark_dead, worker_id)

    assert scenario.chunk(sessions, held.chunk_id).state == "running"


def test_burying_somebody_unknown_is_fine(sessions: Sessions) -> None:
    write(sessions, presence.mark_dead, 4711)


def test_workers_long_gone_are_forgotten_unless_they_own_a_running_chunk(sessions: Sessions) -> None:
    owner, gone, fresh = (write(sessions, presence.register, f"gpu{n}@here", ME) for n in range(3))
    claim(sessions, load(sessions, numbered(4)), worker_id=owner)
    for worker_id in (owner, gone):
        _silent(sessions, worker_id, 100_000)

    write(sessions, presence.forget_old_workers)

    with reading(sessions) as session:
        left = [one.worker_id for one in presence.registered_on(session, "here", "boot-1")]
    assert sorted(left) == [owner, fresh]


def test_a_worker_that_was_forgotten_is_told_so_and_takes_what_it_holds_along(sessions: Sessions) -> None:
    asleep = write(sessions, presence.register, "gpu0@here", ME)
    other = write(sessions, presence.register, "gpu1@here", replace(ME, pid=101))
    run_id = load(sessions, numbered(12))
    _silent(sessions, asleep, 100_000)
    write(sessions, presence.forget_old_workers)
    assert not write(sessions, presence.report, asleep, state="idle")

    mine, theirs = (claim(sessions, run_id, worker_id=worker_id) for worker_id in (asleep, other))
    new = write(sessions, presence.register_anew, asleep, "gpu0@here", ME)
    assert write(sessions, presence.register_anew, asleep, "gpu0@here", ME) == new  # the answer had been lost
    assert write(sessions, presence.report, new, state="running", run_id=run_id, chunk_id=mine.chunk_id)

    assert new not in (asleep, other)
    assert scenario.chunk(sessions, mine.chunk_id).owner_id == new
    assert scenario.chunk(sessions, theirs.chunk_id).owner_id == other
    with reading(sessions) as session:
        assert [one.worker_id for one in presence.registered_on(session, "here", "boot-1")] == [other, new]
        assert presence.without_lease(session, "here", "boot-1", stopped=False) == []
    assert scenario.commit_all(sessions, mine)


def test_a_named_lease_has_one_holder_who_may_renew_it(sessions: Sessions) -> None:
    assert write(sessions, named_leases.acquire_lease, "reconciler", ME, 45.0)
    assert write(sessions, named_leases.acquire_lease, "reconciler", ME, 45.0)
    assert not write(sessions, named_leases.acquire_lease, "reconciler", OTHER, 45.0)
    with reading(sessions) as session:
        assert named_leases.lease_holder(session, "reconciler") == ME
        assert named_leases.lease_holder(session, "another") is None


def test_a_later_process_with_the_same_number_is_not_the_holder(sessions: Sessions) -> None:
    write(sessions, named_leases.acquire_lease, "reconciler", ME, 45.0)

    assert not write(sessions, named_leases.acquire_lease, "reconciler", replace(ME, started=8), 45.0)


def test_a_released_lease_is_free_and_only_its_holder_can_release_it(sessions: Sessions) -> None:
    write(sessions, named_leases.acquire_lease, "reconciler", ME, 45.0)
    write(sessions, named_leases.release_lease, "reconciler", OTHER)
    assert not write(sessions, named_leases.acquire_lease, "reconciler", OTHER, 45.0)

    write(sessions, named_leases.release_lease, "reconciler", ME)

    assert write(sessions, named_leases.acquire_lease, "reconciler", OTHER, 45.0)


def test_a_lease_that_is_over_or_whose_holder_is_dead_is_taken(sessions: Sessions) -> None:
    third = Process("third", "boot-3", 1, 1)
    write(sessions, named_leases.acquire_lease, "reconciler", ME, 45.0)

    assert not write(sessions, named_leases.acquire_lease, "reconciler", OTHER, 45.0, dead=third)
    assert write(sessions, named_leases.acquire_lease, "reconciler", OTHER, 45.0, dead=ME)

    with sessions.begin() as session:
        session.execute(update(Lease).values(until=now() - 1.0))
    assert write(sessions, named_leases.acquire_lease, "reconciler", third, 45.0)


def test_of_many_who_take_a_new_lease_at_once_one_gets_it(sessions: Sessions) -> None:
    start = Barrier(8)

    def take(number: int) -> bool:
        start.wait()
        return write(sessions, named_leases.acquire_lease, "reconciler", replace(ME, pid=number), 45.0)

    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(take, range(8)))

    assert sum(taken) == 1


def test_only_a_live_worker_that_runs_a_chunk_is_busy(sessions: Sessions) -> None:
    worker_id = write(sessions, presence.register, "gpu0@here", ME)
    with reading(sessions) as session:
        assert not presence.busy_workers(session)

    write(sessions, presence.report, worker_id, state="running")
    with reading(sessions) as session:
        assert presence.busy_workers(session)

    _silent(sessions, worker_id, presence.LIVE_SECONDS + 1)
    with reading(sessions) as session:
        assert not presence.busy_workers(session)


def test_status_shows_what_each_live_worker_does(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    busy, dead, _ = (write(sessions, presence.register, f"gpu{n}@here", ME) for n in range(3))
    held = claim(sessions, run_id, worker_id=busy)
    does = {"state": "running", "run_id": run_id, "chunk_id": held.chunk_id, "images_per_second": 2.5}
    write(sessions, presence.report, busy, **does)
    write(sessions, presence.mark_dead, dead)

    with reading(sessions) as session:
        everybody, of_run = status.workers(session), status.workers(session, run_id)

    assert [line.node for line in everybody] == ["gpu0@here", "gpu2@here"]
    [line] = of_run
    assert (line.state, line.run, line.chunk, line.images_per_second) == ("running", "faces", 1, 2.5)
    assert 0 <= line.heartbeat < 60


def _silent(sessions: Sessions, worker_id: int, seconds: float) -> None:
    with sessions.begin() as session:
        session.execute(update(Worker).where(Worker.id == worker_id).values(heartbeat=now() - seconds))
