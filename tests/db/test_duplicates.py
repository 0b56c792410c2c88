"""Rows that repeat an earlier row of their run, on SQLite and on PostgreSQL."""

from db import duplicates, intake
from db.intake import NewRow
from db.session import Sessions, reading, write
from tests.db import scenario
from tests.db.scenario import BOX, NO_BOX, add, claim, create, finish, load, numbered, rows


def test_a_load_killed_in_its_duplicate_pass_finishes_it(sessions: Sessions) -> None:
    run_id = create(sessions)
    add(sessions, run_id, rows("a", "a", "b", "b"))
    with reading(sessions) as session:
        first, _ = duplicates.repeated_rows(session, run_id)
    write(sessions, duplicates.mark_duplicates, run_id, [first])

    write(sessions, intake.begin_reading, run_id, 1, 1, ["path"])

    assert finish(sessions, run_id) == 1
    assert scenario.run(sessions, run_id).duplicates == 2


def test_a_duplicate_points_to_the_first_row_and_leaves_its_chunk(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b", "a", "c", "a", "b"))

    first, second, *_ = images = scenario.images(sessions, run_id)
    assert [image.same_as for image in images] == [None, None, first.id, None, first.id, second.id]
    assert [chunk.images for chunk in scenario.chunks(sessions, run_id)] == [3, 0]
    assert [chunk.state for chunk in scenario.chunks(sessions, run_id)] == ["pending", "done"]


def test_a_later_load_finds_duplicates_of_earlier_ones_without_touching_these(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b", "b"))
    scenario.work_off(sessions, run_id, 0.9)

    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    add(sessions, run_id, rows("c", "a", "c"), read=3)
    finish(sessions, run_id)

    assert scenario.states(sessions, run_id) == ["done", "done", "duplicate", "pending", "duplicate", "duplicate"]


def test_the_same_path_with_other_prompts_is_no_duplicate(sessions: Sessions) -> None:
    new = [NewRow("a"), NewRow("a", prompts=("dog",)), NewRow("a", prompts=("cat",)), NewRow("a", prompts=("dog",))]
    run_id = load(sessions, new)

    assert scenario.states(sessions, run_id) == ["pending", "pending", "pending", "duplicate"]
    scenario.work_off(sessions, run_id, 0.9)


def test_the_same_path_with_other_boxes_is_no_duplicate_and_each_claim_says_its_boxes(sessions: Sessions) -> None:
    run_id = load(
        sessions, [NewRow("a"), NewRow("a", boxes=(BOX,)), NewRow("a", boxes=(NO_BOX,)), NewRow("a", boxes=(BOX,))]
    )

    assert scenario.states(sessions, run_id) == ["pending", "pending", "pending", "duplicate"]
    assert [image.boxes for image in claim(sessions, run_id).images] == [(), (BOX,), (NO_BOX,)]


def test_repeated_rows_come_in_the_order_of_the_file(sessions: Sessions) -> None:
    run_id = create(sessions)
    add(sessions, run_id, rows("c", "b", "a", "b", "a", "c", "b"))

    with reading(sessions) as session:
        found = list(duplicates.repeated_rows(session, run_id))

    images = {image.id: image.row for image in scenario.images(sessions, run_id)}
    assert [(images[one.image_id], images[one.first_id]) for one in found] == [(4, 2), (5, 3), (6, 1), (7, 2)]
    finish(sessions, run_id)


def test_more_rows_than_a_slice_are_loaded_and_deduplicated(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(2100), *numbered(2100)], chunk_size=512)

    run = scenario.run(sessions, run_id)
    assert (run.images, run.duplicates) == (4200, 2100)
    numbers = [image.row for image in scenario.images(sessions, run_id)]
    assert numbers == list(range(1, 4201))
