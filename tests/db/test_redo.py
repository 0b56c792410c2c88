"""Images that are computed again: old results stay until the new ones replace them, on SQLite and on PostgreSQL."""

import pytest
from sqlalchemy import event, func, select, update

from db import claims, intake
from db.claims import LeaseLost, Next
from db.models import Image, Instance, Result
from db.redo import ended_images, last_chunk_before, redo_slice
from db.session import Sessions, read, reading, write
from db.values import Redo
from db.views import status
from db.views.results import ExportedImage, exported_images
from tests.db import audit, scenario
from tests.db.scenario import claim, commit, commit_all, done, failed, load, numbered, rows, scores


def redo(sessions: Sessions, run_id: int, which: Redo = Redo.ALL, *, page: int = 1000) -> int:
    """All of it, as the producer does it for images that need no look at their files."""
    last = read(sessions, last_chunk_before, run_id)
    moved = 0
    for first in range(1, scenario.run(sessions, run_id).images + 1, page):
        images = read(sessions, ended_images, run_id, which, range(first, first + page), last)
        moved += write(sessions, redo_slice, run_id, [image.id for image in images], last)
    return moved


def exported(sessions: Sessions, run_id: int) -> list[ExportedImage]:
    return list(exported_images(sessions, run_id, 0.3))


def stored(sessions: Sessions) -> tuple[int, int]:
    """How many results and instances there are in the database."""
    with reading(sessions) as session:
        counts = [session.execute(select(func.count()).select_from(table)).scalar_one() for table in (Result, Instance)]
    return counts[0], counts[1]


@pytest.fixture
def run_id(sessions: Sessions) -> int:
    return scenario.finished(sessions)


@pytest.mark.parametrize(
    ("which", "taken"), [(Redo.ALL, [1, 2, 3, 4, 5]), (Redo.EMPTY, [3, 4]), (Redo.FAILED, [5]), (Redo.CHANGED, [])]
)
def test_what_is_redone_becomes_pending_in_new_chunks_and_keeps_its_old_results(
    sessions: Sessions, run_id: int, which: Redo, taken: list[int]
) -> None:
    before = stored(sessions)

    assert redo(sessions, run_id, which) == len(taken)

    assert [image.row for image in scenario.images(sessions, run_id) if image.state == "pending"] == taken
    assert stored(sessions) == before
    assert scenario.run(sessions, run_id).state == ("active" if taken else "done")
    with reading(sessions) as session:
        images = status.progress(session, run_id).images
    assert (images.total, images.pending) == (5, len(taken))
    chunks = scenario.chunks(sessions, run_id)
    assert sum(chunk.images for chunk in chunks) == 5
    assert {chunk.state for chunk in chunks[:2] if chunk.images == 0} <= {"done"}


def test_an_image_that_waits_for_its_redo_shows_nothing_of_its_old_results(sessions: Sessions, run_id: int) -> None:
    redo(sessions, run_id)

    assert {(image.state, image.width, image.results) for image in exported(sessions, run_id)} == {
        ("pending", None, ())
    }


def test_the_new_outcome_replaces_the_old_one_in_the_same_transaction(sessions: Sessions, run_id: int) -> None:
    redo(sessions, run_id)
    held = claim(sessions, run_id)
    one, two, three, four = held.images
    assert (one.again, four.again) == (True, True)

    commit(sessions, held, [done(one, 0.7), done(two), done(three, 0.6, 0.5), failed(four)])

    assert [scores(image) for image in exported(sessions, run_id)] == [[0.7], [], [0.6, 0.5], [], []]
    assert scenario.states(sessions, run_id) == ["done", "done", "done", "failed", "pending"]
    assert stored(sessions) == (3, 3)
    held = claim(sessions, run_id)
    assert [image.again for image in held.images] == [False]  # it had failed: there is nothing to replace
    commit_all(sessions, held, 0.9)
    assert scenario.run(sessions, run_id).state == "done"


def test_a_commit_that_is_lost_leaves_the_old_results(sessions: Sessions, run_id: int) -> None:
    redo(sessions, run_id)
    held = claim(sessions, run_id)
    scenario.take_back(sessions, held)
    before = stored(sessions)

    with pytest.raises(LeaseLost):
        commit_all(sessions, held, 0.5)

    assert stored(sessions) == before


def test_a_commit_without_a_redo_deletes_nothing(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    statements: list[str] = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", lambda *given: statements.append(given[2]))

    commit_all(sessions, held, 0.9)

    assert statements
    assert not [statement for statement in statements if statement.startswith("DELETE")]


def test_a_redo_that_gives_up_leaves_no_old_results_behind(sessions: Sessions, run_id: int) -> None:
    redo(sessions, run_id, Redo.EMPTY)
    for _ in range(claims.MAX_ATTEMPTS):
        held = claim(sessions, run_id, scenario.chunks(sessions, run_id)[-1].id)
        write(sessions, claims.fail_attempt, held, "a bug")
        scenario.rest_is_over(sessions, held.chunk_id)

    assert scenario.states(sessions, run_id) == ["done", "done", "failed", "failed", "failed"]
    assert stored(sessions) == (2, 3)


def test_an_image_that_crashes_alone_in_its_redo_loses_its_old_results(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9)
    redo(sessions, run_id)
    for _ in range(claims.CRASHES_BEFORE_SPLIT):
        held = claim(sessions, run_id, scenario.chunks(sessions, run_id)[-1].id)
        write(sessions, claims.begin_range, held, 1, 1)
        scenario.take_back(sessions, held)

    [image] = scenario.images(sessions, run_id)
    assert (image.state, image.error_class, image.width) == ("failed", "crashed", None)
    assert stored(sessions) == (0, 0)


def test_an_old_result_of_the_same_fence_does_not_pass_for_a_commit_that_landed(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9)
    redo(sessions, run_id)
    held = claim(sessions, run_id)
    outcomes = [done(image, 0.5) for image in held.images]
    assert held.fence == 1

    assert read(sessions, claims.was_committed, held, outcomes) is None
    commit(sessions, held, outcomes)
    assert read(sessions, claims.was_committed, held, outcomes) is Next.NOTHING


def test_the_same_redo_again_goes_on_and_takes_nothing_twice(sessions: Sessions) -> None:
    """As after kill -9 while images were moved, and again while they were computed."""
    run_id = load(sessions, numbered(12))
    scenario.work_off(sessions, run_id, 0.9)
    last = read(sessions, last_chunk_before, run_id)
    some = read(sessions, ended_images, run_id, Redo.ALL, range(1, 7), last)
    write(sessions, redo_slice, run_id, [image.id for image in some], last)
    commit_all(sessions, claim(sessions, run_id), 0.5)

    assert redo(sessions, run_id) == 6
    commit_all(sessions, claim(sessions, run_id), 0.5)
    assert redo(sessions, run_id) == 0

    scenario.work_off(sessions, run_id, 0.5)
    assert [scores(image) for image in exported(sessions, run_id)] == [[0.5]] * 12
    assert redo(sessions, run_id) == 12  # that one is over: this is another
    scenario.work_off(sessions, run_id, 0.6)
    assert [scores(image) for image in exported(sessions, run_id)] == [[0.6]] * 12


def test_slices_move_every_image_once_and_pack_chunks_of_the_runs_size(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(20))
    scenario.work_off(sessions, run_id, 0.9)

    assert redo(sessions, run_id, page=8) == 20

    assert [chunk.images for chunk in scenario.chunks(sessions, run_id)] == [0] * 5 + [4] * 5


def test_images_of_a_going_run_are_redone_beside_it(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    held = claim(sessions, run_id)
    commit(sessions, held, [done(image, 0.9) for image in held.images[:2]])

    assert redo(sessions, run_id) == 2
    assert commit(sessions, held, [done(image, 0.8) for image in held.images[2:]])

    scenario.work_off(sessions, run_id, 0.5)
    assert [scores(image) for image in exported(sessions, run_id)] == [[0.5]] * 2 + [[0.8]] * 2 + [[0.5]] * 4


def test_rows_that_are_gone_and_rows_of_no_chunk_are_not_redone(sessions: Sessions) -> None:
    run_id = load(sessions, [*rows("a", "b", "a"), scenario.REJECTED])
    scenario.work_off(sessions, run_id, 0.9)
    scenario.read_again(sessions, run_id, [*rows("a", "a"), scenario.REJECTED])

    assert redo(sessions, run_id) == 1

    scenario.work_off(sessions, run_id, 0.5)
    assert [scores(image) for image in exported(sessions, run_id)] == [[0.5], [0.5], []]


def test_only_files_that_were_read_are_offered_for_a_look(sessions: Sessions, run_id: int) -> None:
    def note(row: int) -> None:
        with sessions.begin() as session:
            session.execute(update(Image).where(Image.row == row).values(file_size=10, file_mtime_ns=7))

    note(2)
    note(5)

    last = read(sessions, last_chunk_before, run_id)
    found = read(sessions, ended_images, run_id, Redo.CHANGED, range(1, 6), last)

    assert [(image.row, image.path, image.file_size, image.file_mtime_ns) for image in found] == [
        (2, "000002.jpg", 10, 7),
        (5, "000005.jpg", 10, 7),
    ]


def test_nothing_of_a_run_that_still_loads_is_moved(sessions: Sessions, run_id: int) -> None:
    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    scenario.add(sessions, run_id, rows("more"), read=5)

    assert redo(sessions, run_id) == 0
    scenario.finish(sessions, run_id)


def test_capped_and_warned_images_leave_the_counters_of_their_chunk(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b"))
    scenario.work_off(sessions, run_id, 0.9)
    [one] = scenario.chunks(sessions, run_id)
    with sessions.begin() as session:
        session.execute(update(Result).values(capped=True))
        session.execute(update(Image).where(Image.row == 1).values(warning="dark"))
    scenario.change_chunk(sessions, one.id, capped=2, warned=1)

    redo(sessions, run_id)

    old, new = scenario.chunks(sessions, run_id)
    assert (old.images, old.capped, old.warned, old.instances) == (0, 0, 0, 0)
    assert (new.images, new.capped, new.warned) == (2, 0, 0)
    with sessions.begin() as session:
        session.execute(update(Image).values(warning=None))
    scenario.work_off(sessions, run_id)


def test_a_redo_is_no_duplicate_but_done_images_that_are_taken_up_otherwise_are(
    sessions: Sessions, run_id: int
) -> None:
    redo(sessions, run_id)
    scenario.work_off(sessions, run_id, 0.5)

    assert read(sessions, audit.ended_twice) == set()
    assert read(sessions, audit.retried, run_id) == 5


def test_a_cancelled_redo_gives_the_old_results_back(sessions: Sessions, run_id: int) -> None:
    redo(sessions, run_id)
    held = claim(sessions, run_id)
    commit(sessions, held, [done(held.images[0], 0.7)])

    scenario.cancel(sessions, run_id)

    assert scenario.run(sessions, run_id).state == "cancelled"
    assert scenario.states(sessions, run_id) == ["done", "done", "done", "done", "cancelled"]
    assert [scores(image) for image in exported(sessions, run_id)] == [[0.7], [0.9], [], [0.4], []]
    with pytest.raises(LeaseLost):
        commit(sessions, held, [done(held.images[1], 0.7)])
