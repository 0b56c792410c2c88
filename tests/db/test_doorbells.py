"""Which chunks are rung, how often, and what their doorbells say. On SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from db import doorbells
from db.doorbells import identity
from db.session import Sessions, read, reading, write
from tests.db import scenario
from tests.db.scenario import claim, load, numbered


def test_a_doorbell_says_what_is_in_the_chunk(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6))

    first, second = write(sessions, doorbells.ring_pending, run_id, 10)

    here = read(sessions, identity)
    assert first == doorbells.RungChunk(
        run_id, "faces", first.chunk_id, number=1, ring=1, images=4, first_path="000001.jpg", database=here
    )
    assert second == doorbells.RungChunk(
        run_id, "faces", second.chunk_id, number=2, ring=1, images=2, first_path="000005.jpg", database=here
    )


def test_no_more_doorbells_are_rung_than_asked_for_and_none_twice(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(12))

    assert [one.number for one in write(sessions, doorbells.ring_pending, run_id, 2)] == [1, 2]
    assert [one.number for one in write(sessions, doorbells.ring_pending, run_id, 2)] == [3]
    assert write(sessions, doorbells.ring_pending, run_id, 2) == []


def test_two_dispatchers_at_once_ring_different_chunks(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(80))
    start = Barrier(4)

    def ring(_: int) -> list[int]:
        start.wait()
        return [one.chunk_id for _ in range(3) for one in write(sessions, doorbells.ring_pending, run_id, 3)]

    with ThreadPoolExecutor(4) as threads:
        rung = [chunk_id for ids in threads.map(ring, range(4)) for chunk_id in ids]

    assert len(rung) == len(set(rung))


def test_a_lost_doorbell_is_rung_again_once(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    [rung] = write(sessions, doorbells.ring_pending, run_id, 1)

    [again] = write(sessions, doorbells.ring_again, rung.chunk_id, rung.ring)

    assert again.ring == 2
    assert write(sessions, doorbells.ring_again, rung.chunk_id, rung.ring) == []
    with reading(sessions) as session:
        assert doorbells.queued_doorbells(session) == [(rung.chunk_id, 2)]


def test_a_running_chunk_is_not_rung_again(sessions: Sessions) -> None:
    held = claim(sessions, load(sessions, numbered(4)))

    assert write(sessions, doorbells.ring_again, held.chunk_id, 1) == []


def test_an_unclaimed_chunk_handed_back_is_rung_with_the_next_number(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    [rung] = write(sessions, doorbells.ring_pending, run_id, 1)

    assert write(sessions, doorbells.unqueue, rung.chunk_id)

    assert not write(sessions, doorbells.unqueue, rung.chunk_id)
    [again] = write(sessions, doorbells.ring_pending, run_id, 1)
    assert again.ring == 2


def test_all_doorbells_are_rung_anew_after_the_broker_lost_them(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(12))
    held = claim(sessions, run_id)
    write(sessions, doorbells.ring_pending, run_id, 1)

    assert write(sessions, doorbells.forget_doorbells) == 1

    assert [one.number for one in write(sessions, doorbells.ring_pending, run_id, 10)] == [2, 3]
    assert scenario.chunk(sessions, held.chunk_id).state == "running"
