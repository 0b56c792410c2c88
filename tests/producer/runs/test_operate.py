"""Retry, cancel and delete of whole runs, slice by slice, on SQLite and on PostgreSQL."""

import pytest
from sqlalchemy import func, select

from db.models import Base
from db.runs import RetryFilter
from db.session import Sessions, reading
from producer.runs.operate import cancel, delete, retry
from tests.db import scenario
from tests.db.scenario import REJECTED, claim, commit, done, failed, load, numbered
from workers.errors import UsageError

EVERYTHING = RetryFilter()


def with_failures(sessions: Sessions) -> int:
    """Nine images in three chunks of four, four and one: of each chunk the first is truncated, the second missing."""
    run_id = load(sessions, numbered(9))
    for _ in range(3):
        held = claim(sessions, run_id)
        classes = dict(zip((image.id for image in held.images), ("truncated", "missing"), strict=False))
        commit(
            sessions,
            held,
            [failed(image, classes[image.id]) if image.id in classes else done(image, 0.9) for image in held.images],
        )
    assert scenario.run(sessions, run_id).state == "done"
    return run_id


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk of four images each."""
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 4)


@pytest.mark.usefixtures("small_slices")
def test_all_failed_images_are_pending_again_in_new_chunks_and_the_run_is_active(sessions: Sessions) -> None:
    run_id = with_failures(sessions)
    told: list[tuple[int, int]] = []

    assert retry(sessions, run_id, EVERYTHING, lambda *done: told.append(done)) == 5

    assert told == [(4, 5), (5, 5)]
    assert scenario.run(sessions, run_id).state == "active"
    assert [(chunk.number, chunk.images) for chunk in scenario.chunks(sessions, run_id)] == [
        *((1, 2), (2, 2), (3, 0), (4, 4), (5, 1))
    ]
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 9


def test_only_what_is_asked_for_is_retried(sessions: Sessions) -> None:
    run_id = with_failures(sessions)

    assert retry(sessions, run_id, RetryFilter(error_class="missing")) == 2
    assert retry(sessions, run_id, RetryFilter(chunk_number=3)) == 1
    assert retry(sessions, run_id, RetryFilter("missing", 1)) == 0


@pytest.mark.usefixtures("small_slices")
def test_what_fails_again_meanwhile_is_left_for_the_next_retry(sessions: Sessions) -> None:
    run_id = with_failures(sessions)

    def fail_again(moved: int, total: int) -> None:
        held = claim(sessions, run_id)
        commit(sessions, held, [failed(image) for image in held.images])

    assert retry(sessions, run_id, EVERYTHING, fail_again) == 5
    assert scenario.states(sessions, run_id).count("failed") == 5
    assert scenario.run(sessions, run_id).state == "done"


def test_with_nothing_to_retry_a_done_run_stays_done(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(3), REJECTED])
    scenario.work_off(sessions, run_id, 0.9)

    assert retry(sessions, run_id, EVERYTHING) == 0
    assert scenario.run(sessions, run_id).state == "done"


def test_a_cancelled_run_is_taken_up_with_its_cancelled_images(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(10))
    scenario.commit_all(sessions, claim(sessions, run_id), 0.9)
    cancel(sessions, run_id)

    assert retry(sessions, run_id, EVERYTHING) == 6
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.states(sessions, run_id) == ["done"] * 10


def test_a_choice_that_fits_nothing_leaves_a_cancelled_run_cancelled(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(10))
    cancel(sessions, run_id)

    assert retry(sessions, run_id, RetryFilter(error_class="missing")) == 0
    assert scenario.run(sessions, run_id).state == "cancelled"


def test_the_retry_of_a_cancelled_run_that_dies_before_its_first_images_changes_nothing(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = load(sessions, numbered(9))
    cancel(sessions, run_id)

    def die(*_: object, **given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("db.runs.retry_slice", die)
        with pytest.raises(KeyboardInterrupt):
            retry(sessions, run_id, EVERYTHING)
    assert scenario.run(sessions, run_id).state == "cancelled"
    assert retry(sessions, run_id, EVERYTHING) == 9
    assert scenario.run(sessions, run_id).state == "active"


def test_a_run_that_is_still_loading_is_not_retried(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)

    with pytest.raises(UsageError, match="run faces is still loading; retry it when its sam3-enqueue has ended"):
        retry(sessions, run_id, EVERYTHING)


@pytest.mark.usefixtures("small_slices")
def test_cancel_keeps_what_is_done_and_counts_what_it_stopped(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(10))
    scenario.commit_all(sessions, claim(sessions, run_id), 0.9)
    told: list[tuple[int, int]] = []

    assert cancel(sessions, run_id, lambda *done: told.append(done)) == 6

    assert told == [(4, 6), (6, 6)]
    assert scenario.states(sessions, run_id) == ["done"] * 4 + ["cancelled"] * 6
    assert scenario.run(sessions, run_id).state == "cancelled"


@pytest.mark.usefixtures("small_slices")
def test_an_interrupted_cancel_is_finished_by_the_next_one(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(10))

    def die(cancelled: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancel(sessions, run_id, die)
    assert scenario.run(sessions, run_id).state == "cancelling"
    assert cancel(sessions, run_id) == 6
    assert scenario.states(sessions, run_id) == ["cancelled"] * 10


def test_cancelling_a_finished_run_changes_nothing(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(3))
    scenario.work_off(sessions, run_id, 0.9)

    assert cancel(sessions, run_id) == 0
    assert scenario.run(sessions, run_id).state == "done"


def test_delete_leaves_nothing_of_the_run_and_everything_of_the_others(sessions: Sessions) -> None:
    kept = load(sessions, numbered(5), name="kept")
    scenario.work_off(sessions, kept, 0.9)
    before = stored(sessions)
    run_id = load(sessions, numbered(10))
    scenario.commit_all(sessions, claim(sessions, run_id), 0.9)
    told: list[tuple[int, int]] = []

    assert delete(sessions, run_id, lambda *done: told.append(done)) == 10

    assert told[-1] == (10, 10)
    assert stored(sessions) == before


def test_an_interrupted_delete_is_finished_by_the_next_one(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 1000)
    run_id = load(sessions, numbered(1500))

    def die(deleted: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        delete(sessions, run_id, die)
    left = stored(sessions)["image"]
    assert (scenario.run(sessions, run_id).state, scenario.run(sessions, run_id).images) == ("deleting", left)

    assert delete(sessions, run_id) == left == 500
    assert not any(stored(sessions).values())


def stored(sessions: Sessions) -> dict[str, int]:
    """Rows by table."""
    tables = [table for table in Base.metadata.sorted_tables if table.name not in ("worker", "lease", "installation")]
    with reading(sessions) as session:
        return {table.name: session.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}
