"""Rows that an edited source no longer has, on SQLite and on PostgreSQL: what is not done of them is not computed."""

import pytest

from db import claims, gone, intake
from db.claims import LeaseLost
from db.intake import LoadCancelled
from db.session import Sessions, read, reading, write
from db.slices import Place
from db.values import Redo
from db.views import status
from tests.db import audit, recount, scenario
from tests.db.scenario import REJECTED, claim, commit, done, failed, load, numbered, read_again, rows
from tests.db.test_redo import redo


def agrees(sessions: Sessions) -> bool:
    with reading(sessions) as session:
        assert recount.differences(session) == []
        assert audit.findings(session) == []
    return True


def chunk_states(sessions: Sessions, run_id: int) -> list[tuple[str, int]]:
    return [(chunk.state, chunk.images) for chunk in scenario.chunks(sessions, run_id)]


def test_what_is_not_done_of_gone_rows_is_cancelled_and_leaves_its_chunk_and_results_stay(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(9), chunk_size=3)
    held = claim(sessions, run_id)
    commit(sessions, held, [done(held.images[0], 0.9), done(held.images[1]), failed(held.images[2])])

    # Rows 1 and 3 of the first chunk, 5 of the second, and all of the third have gone.
    read_again(sessions, run_id, rows("000002.jpg", "000004.jpg", "000006.jpg"))

    assert agrees(sessions)
    expected = ["done", "done", "cancelled", "pending", "cancelled", "pending", *["cancelled"] * 3]
    assert scenario.states(sessions, run_id) == expected
    assert [image.error for image in scenario.images(sessions, run_id)] == [None] * 9
    assert chunk_states(sessions, run_id) == [("done", 2), ("pending", 2), ("done", 0)]
    now = read(sessions, status.progress, run_id)
    assert (now.images.pending, now.images.failed, now.images.cancelled, now.images.gone) == (2, 0, 0, 6)
    assert [image.row for image in claim(sessions, run_id).images] == [4, 6]


def test_no_retry_of_a_cancelled_run_takes_rows_that_are_gone(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6), chunk_size=3)
    held = claim(sessions, run_id)
    commit(sessions, held, [*map(done, held.images[:2]), failed(held.images[2])])
    scenario.cancel(sessions, run_id)

    write(sessions, intake.begin_matching, run_id, 2, 2, ["path"])
    write(sessions, intake.add_rows, run_id, 0, numbered(2), matching=True, reopens=True)
    scenario.drop_gone(sessions, run_id)
    scenario.finish(sessions, run_id)

    assert agrees(sessions)
    assert chunk_states(sessions, run_id) == [("done", 2), ("done", 0)]
    assert scenario.retry(sessions, run_id) == 0
    assert read(sessions, status.errors, run_id) == []


def test_an_active_run_ends_with_its_gone_rows_though_their_doorbells_were_rung(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6), chunk_size=3)
    held = claim(sessions, run_id, scenario.chunks(sessions, run_id)[0].id)  # rings both
    commit(sessions, held, map(done, held.images))
    assert chunk_states(sessions, run_id)[1] == ("queued", 3)

    read_again(sessions, run_id, numbered(3))

    assert agrees(sessions)
    assert chunk_states(sessions, run_id)[1] == ("done", 0)
    assert scenario.run(sessions, run_id).state == "done"
    assert write(sessions, claims.claim, run_id, scenario.chunks(sessions, run_id)[1].id, 1) is None


def test_a_row_that_comes_back_is_pending_under_its_old_number(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4), chunk_size=2)
    held = claim(sessions, run_id)
    commit(sessions, held, [done(held.images[0]), failed(held.images[1])])
    read_again(sessions, run_id, numbered(1))
    assert scenario.run(sessions, run_id).state == "done"

    read_again(sessions, run_id, [*numbered(3), *rows("new")])

    assert agrees(sessions)
    assert scenario.states(sessions, run_id) == ["done", "pending", "pending", "cancelled", "pending"]
    assert scenario.run(sessions, run_id).state == "active"
    scenario.work_off(sessions, run_id, 0.9)
    read_again(sessions, run_id, numbered(4))
    assert [image.row for image in claim(sessions, run_id).images] == [4]
    assert agrees(sessions)


def test_a_duplicate_of_a_row_that_comes_back_stays_one(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b", "a"))
    read_again(sessions, run_id, rows("b"))
    assert scenario.states(sessions, run_id) == ["cancelled", "pending", "duplicate"]

    read_again(sessions, run_id, rows("a", "a", "b"))

    assert scenario.states(sessions, run_id) == ["pending", "pending", "duplicate"]
    assert agrees(sessions)


def test_a_chunk_in_hand_is_taken_back_only_if_a_pending_row_of_it_has_gone(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6), chunk_size=3)
    untouched, held = claim(sessions, run_id), claim(sessions, run_id, worker_id=2)
    commit(sessions, untouched, [failed(untouched.images[0])])

    read_again(sessions, run_id, rows("000002.jpg", "000003.jpg", "000004.jpg"))

    assert agrees(sessions)
    assert chunk_states(sessions, run_id) == [("running", 2), ("pending", 1)]
    assert scenario.chunk(sessions, held.chunk_id).attempts == 0
    with pytest.raises(LeaseLost):
        commit(sessions, held, [done(held.images[0])])
    commit(sessions, untouched, map(done, untouched.images[1:]))
    assert [image.row for image in claim(sessions, run_id).images] == [4]
    assert agrees(sessions)


def test_a_gone_image_that_was_to_be_computed_again_keeps_its_results(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(3))
    scenario.work_off(sessions, run_id, 0.9)
    redo(sessions, run_id, Redo.ALL)

    read_again(sessions, run_id, numbered(1))

    assert agrees(sessions)
    assert scenario.states(sessions, run_id) == ["pending", "done", "done"]
    assert read(sessions, status.progress, run_id).images.segmented == 2


def test_a_rejected_row_counts_only_as_long_as_the_source_has_it(sessions: Sessions) -> None:
    def rejected() -> tuple[int, int]:
        errors = read(sessions, status.errors, run_id)
        return read(sessions, status.progress, run_id).images.rejected, sum(line.count for line in errors)

    run_id = load(sessions, [*rows("a"), REJECTED, REJECTED])
    assert rejected() == (2, 2)
    read_again(sessions, run_id, rows("b"), ended=False)
    assert rejected() == (2, 2), "nobody knows yet"
    read_again(sessions, run_id, [*rows("b"), REJECTED])
    assert rejected() == (1, 1)
    read_again(sessions, run_id, rows("a", "b"))
    assert rejected() == (0, 0)
    read_again(sessions, run_id, [REJECTED, REJECTED])
    assert rejected() == (2, 2)


def test_a_source_that_was_not_read_to_its_end_takes_nothing_away(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))

    read_again(sessions, run_id, numbered(1), ended=False)

    assert scenario.states(sessions, run_id) == ["pending"] * 4


@pytest.mark.parametrize("ends", [scenario.begin_cancel, scenario.begin_delete])
def test_a_run_that_is_stopped_meanwhile_is_left_to_that(sessions: Sessions, ends: object) -> None:
    run_id = load(sessions, numbered(4))
    read_again(sessions, run_id, numbered(1), ended=False)
    assert callable(ends)
    ends(sessions, run_id)

    with pytest.raises(LoadCancelled):
        write(sessions, gone.drop_gone_slice, run_id, Place(), 1000)

    assert scenario.states(sessions, run_id) == ["pending"] * 4


def test_a_run_with_gone_rows_is_deleted_whole(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    read_again(sessions, run_id, numbered(1))

    assert scenario.delete(sessions, run_id) == 4
