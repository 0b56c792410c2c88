"""Retry, cancel and delete, on SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import claims, doorbells, intake, runs
from db.claims import LeaseLost, Next
from db.models import Base
from db.runs import RetryFilter
from db.session import Sessions, reading, write
from db.slices import Place
from tests.db import scenario
from tests.db.scenario import claim, done, failed, load, numbered
from tests.terminals import PATIENCE

EVERYTHING = RetryFilter()


def test_failed_images_move_into_new_chunks_and_done_chunks_stay_done(sessions: Sessions) -> None:
    run_id = _with_failures(sessions)

    assert scenario.retry(sessions, run_id, EVERYTHING) == 4

    one, two, three = scenario.chunks(sessions, run_id)
    assert (one.state, one.images, one.failed) == ("done", 2, 0)
    assert (two.state, two.images, two.failed) == ("done", 2, 0)
    assert (three.state, three.number, three.images) == ("pending", 3, 4)
    assert scenario.run(sessions, run_id).state == "active"
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 8
    assert scenario.run(sessions, run_id).state == "done"


def test_only_the_images_of_one_error_class_are_retried(sessions: Sessions) -> None:
    run_id = _with_failures(sessions)

    assert scenario.retry(sessions, run_id, RetryFilter(error_class="missing")) == 2

    assert [image.error_class for image in scenario.images(sessions, run_id)] == [
        *(None, None, "truncated", None),
        *(None, None, "truncated", None),
    ]


def test_only_the_failed_images_of_one_chunk_are_retried(sessions: Sessions) -> None:
    run_id = _with_failures(sessions)

    assert scenario.retry(sessions, run_id, RetryFilter(chunk_number=2)) == 2

    assert scenario.states(sessions, run_id)[:4] == ["done", "done", "failed", "failed"]
    assert scenario.retry(sessions, run_id, RetryFilter(chunk_number=7)) == 0


def test_a_chunk_that_gave_up_is_done_once_its_failed_images_left(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [done(held.images[0], 0.9)])
    write(sessions, claims.release, held)
    for _ in range(5):
        write(sessions, claims.fail_attempt, claim(sessions, run_id), "boom")
        scenario.rest_is_over(sessions, held.chunk_id)
    assert scenario.chunk(sessions, held.chunk_id).state == "failed"

    assert scenario.retry(sessions, run_id, EVERYTHING) == 3

    gave_up = scenario.chunk(sessions, held.chunk_id)
    assert (gave_up.state, gave_up.error, gave_up.images) == ("done", None, 1)


def test_rejected_rows_are_not_retried(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(1), scenario.REJECTED])
    scenario.work_off(sessions, run_id, 0.9)

    assert scenario.retry(sessions, run_id, EVERYTHING) == 0
    assert scenario.run(sessions, run_id).state == "done"


def test_more_failed_images_than_a_chunk_holds_fill_several(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(9), chunk_size=9)
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [failed(image) for image in held.images])
    small = load(sessions, numbered(2), name="small", chunk_size=2)

    assert scenario.retry(sessions, run_id, EVERYTHING) == 9

    assert [chunk.images for chunk in scenario.chunks(sessions, run_id)] == [0, 9]
    assert [chunk.images for chunk in scenario.chunks(sessions, small)] == [2]


def test_failed_images_of_a_running_chunk_can_be_retried_beside_it(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [failed(held.images[0])])

    assert scenario.retry(sessions, run_id, EVERYTHING) == 1

    assert scenario.commit(sessions, held, [done(image, 0.9) for image in held.images[1:]])
    assert scenario.run(sessions, run_id).state == "active"
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.run(sessions, run_id).state == "done"


def test_two_retries_at_once_do_not_give_the_same_chunk_number(sessions: Sessions) -> None:
    run_id = _with_failures(sessions)
    with ThreadPoolExecutor(1) as other, sessions.begin() as session:
        assert runs.retry_slice(session, run_id, Place(), 8, RetryFilter(error_class="missing")).images == 2
        second = other.submit(scenario.retry, sessions, run_id, RetryFilter(error_class="truncated"))
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        session.commit()
        assert second.result(timeout=PATIENCE) == 2

    assert [chunk.number for chunk in scenario.chunks(sessions, run_id)] == [1, 2, 3, 4]


@pytest.mark.parametrize("retry_is_first", [True, False])
def test_a_retry_beside_the_end_of_the_last_chunk_leaves_the_run_active(
    sessions: Sessions, retry_is_first: bool
) -> None:
    run_id = load(sessions, numbered(8))
    one, two = claim(sessions, run_id), claim(sessions, run_id)
    scenario.commit(sessions, one, [failed(image) for image in one.images])

    def retry(session: Session) -> None:
        assert runs.retry_slice(session, run_id, Place(), 8, EVERYTHING).images == 4

    def end(session: Session) -> None:
        assert claims.commit(session, two, [done(image, 0.9) for image in two.images]) is Next.NOTHING

    first, then = (retry, end) if retry_is_first else (end, retry)
    with ThreadPoolExecutor(1) as other, sessions.begin() as session:
        first(session)
        second = other.submit(write, sessions, then)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        session.commit()
        second.result(timeout=PATIENCE)

    assert scenario.run(sessions, run_id).state == "active"


def test_a_retry_out_of_a_chunk_that_ends_at_the_same_moment_leaves_the_run_active(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [failed(held.images[0])])
    start = Barrier(2)

    def retry() -> int:
        start.wait()
        return scenario.retry(sessions, run_id, EVERYTHING)

    def end() -> bool:
        start.wait()
        return scenario.commit(sessions, held, [done(image, 0.9) for image in held.images[1:]])

    with ThreadPoolExecutor(2) as threads:
        retried, ended = threads.submit(retry), threads.submit(end)
        assert retried.result(20) == 1
        assert ended.result(20)

    assert scenario.run(sessions, run_id).state == "active"


def test_a_cancelled_run_keeps_what_is_done(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(12))
    scenario.commit_all(sessions, claim(sessions, run_id), 0.9)
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [failed(held.images[0])])

    scenario.cancel(sessions, run_id)

    assert [chunk.state for chunk in scenario.chunks(sessions, run_id)] == ["done", "cancelled", "cancelled"]
    assert scenario.states(sessions, run_id) == ["done"] * 4 + ["failed"] + ["cancelled"] * 7
    assert scenario.run(sessions, run_id).state == "cancelled"


def test_a_running_chunk_of_a_cancelled_run_loses_its_lease(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)

    scenario.cancel(sessions, run_id)

    assert not write(sessions, claims.heartbeat, held)
    assert not write(sessions, claims.release, held)
    with pytest.raises(LeaseLost):
        scenario.commit_all(sessions, held, 0.9)
    assert scenario.running(sessions) == []


def test_nothing_of_a_cancelled_run_is_rung_or_claimed(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    [rung] = write(sessions, doorbells.ring_pending, run_id, 1)
    write(sessions, runs.cancel_run, run_id)

    assert write(sessions, claims.claim, run_id, rung.chunk_id, 1) is None
    assert write(sessions, doorbells.ring_pending, run_id, 10) == []
    scenario.cancel(sessions, run_id)


def test_a_run_that_is_over_cannot_be_cancelled(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    scenario.work_off(sessions, run_id, 0.9)

    assert not write(sessions, runs.cancel_run, run_id)
    assert scenario.cancel(sessions, run_id) == 0
    assert scenario.run(sessions, run_id).state == "done"


def test_workers_and_a_cancel_at_the_same_time_agree(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(60), chunk_size=2)
    start = Barrier(3)

    def work() -> None:
        start.wait()
        while (held := scenario.try_claim(sessions, run_id)) is not None:
            try:
                for image in held.images:
                    scenario.commit(sessions, held, [done(image, 0.9)])
            except LeaseLost:
                return

    def cancel() -> None:
        start.wait()
        scenario.cancel(sessions, run_id)

    with ThreadPoolExecutor(3) as threads:
        for result in [threads.submit(work), threads.submit(work), threads.submit(cancel)]:
            result.result(30)

    assert set(scenario.states(sessions, run_id)) <= {"done", "cancelled"}


def test_a_retry_of_a_cancelled_run_takes_up_its_cancelled_images(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [failed(held.images[0]), done(held.images[1], 0.9)])
    scenario.cancel(sessions, run_id)

    write(sessions, runs.reopen, run_id)
    assert scenario.retry(sessions, run_id, EVERYTHING) == 5

    assert scenario.run(sessions, run_id).state == "active"
    assert [chunk.state for chunk in scenario.chunks(sessions, run_id)] == ["done", "done", "pending", "pending"]
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 6


def test_a_cancel_during_a_retry_is_not_undone(sessions: Sessions) -> None:
    run_id = _with_failures(sessions)
    scenario.retry(sessions, run_id, RetryFilter(error_class="missing"))
    write(sessions, runs.cancel_run, run_id)

    assert scenario.retry(sessions, run_id, EVERYTHING) == 0

    scenario.cancel(sessions, run_id)
    assert scenario.run(sessions, run_id).state == "cancelled"


def test_a_loading_run_is_not_retried(sessions: Sessions) -> None:
    run_id = _with_failures(sessions)
    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    scenario.add(sessions, run_id, numbered(9)[8:], read=8)

    assert scenario.retry(sessions, run_id, EVERYTHING) == 0
    scenario.finish(sessions, run_id)


def test_a_deleted_run_leaves_nothing_and_its_name_is_free(sessions: Sessions) -> None:
    other = load(sessions, numbered(2), name="other")
    scenario.work_off(sessions, other, 0.9)
    before = _row_counts(sessions)
    run_id = load(sessions, [*numbered(6), *numbered(1), scenario.REJECTED])
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [done(held.images[0], 0.9)])

    scenario.delete(sessions, run_id)

    assert _row_counts(sessions) == before
    assert load(sessions, numbered(1)) is not None


def test_a_late_worker_cannot_commit_into_a_run_made_after_its_own_was_deleted(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    late = claim(sessions, run_id)
    scenario.delete(sessions, run_id)
    held = claim(sessions, load(sessions, numbered(4)))

    assert held.fence == late.fence
    assert not write(sessions, claims.heartbeat, late)
    with pytest.raises(LeaseLost):
        scenario.commit_all(sessions, late, 0.9)


def test_a_run_left_active_with_nothing_live_is_repaired(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    scenario.work_off(sessions, run_id, 0.9)
    untouched = load(sessions, numbered(4), name="other")
    write(sessions, runs.reopen, run_id)

    write(sessions, runs.repair)

    assert scenario.run(sessions, run_id).state == "done"
    assert scenario.run(sessions, untouched).state == "active"


def _with_failures(sessions: Sessions) -> int:
    """Two chunks of four; in each two are done, one is truncated, one missing."""
    run_id = load(sessions, numbered(8))
    while (held := scenario.try_claim(sessions, run_id)) is not None:
        one, two, three, four = held.images
        scenario.commit(sessions, held, [done(one, 0.9), done(two), failed(three), failed(four, "missing")])
    return run_id


def _row_counts(sessions: Sessions) -> dict[str, int]:
    with reading(sessions) as session:
        return {
            name: session.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in Base.metadata.tables.items()
        }
