"""What exports and preview read: a run's rows with their results, on SQLite and on PostgreSQL."""

from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.orm import Session

from db import intake, prompt_rows
from db.intake import NewRow
from db.models import Run
from db.session import Sessions, reading, write
from db.views.results import Asked, ExportedImage, exported_images, some_images
from db.views.rows import PAGE_ROWS, sample_rows
from db.views.run_views import RunGone
from tests.db import scenario
from tests.db.scenario import REJECTED, claim, delete, done, failed, finish, load, numbered, rows


def test_rows_are_exported_in_input_order_with_results_of_duplicates(sessions: Sessions) -> None:
    run_id = load(sessions, [NewRow("a", {"label": "1"}), NewRow("b"), NewRow("a", {"label": "3"}), REJECTED])
    held = claim(sessions, run_id)
    a, b = held.images
    scenario.commit(sessions, held, [done(a, 0.9, 0.4), failed(b)])

    one, two, three, four = _exported(sessions, run_id, 0.5)

    assert [(image.row, image.state) for image in (one, two, three, four)] == [
        (1, "done"),
        (2, "failed"),
        (3, "duplicate"),
        (4, "rejected"),
    ]
    assert (one.cells, three.cells) == ({"label": "1"}, {"label": "3"})
    assert [instance.score for instance in one.results[0].instances] == [0.9]
    assert three.results == one.results
    assert (three.width, three.height) == (640, 480)
    assert (two.error_class, two.results) == ("truncated", ())
    assert four.error_class == "bad_path"


def test_a_duplicate_of_a_failed_row_shows_its_error(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "a"))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [failed(held.images[0], "missing")])

    _, duplicate = _exported(sessions, run_id, 0.5)

    assert (duplicate.state, duplicate.error_class, duplicate.results) == ("duplicate", "missing", ())


@pytest.mark.parametrize(("min_score", "kept"), [(0.3, [0.9, 0.5, 0.3]), (0.5, [0.9, 0.5]), (0.95, [])])
def test_an_export_keeps_instances_down_to_its_own_score(
    sessions: Sessions, min_score: float, kept: list[float]
) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9, 0.5, 0.3)

    [image] = _exported(sessions, run_id, min_score)

    assert [instance.score for instance in image.results[0].instances] == kept
    assert image.results[0].presence == 0.9


def test_a_further_row_of_an_image_is_told_apart_by_its_boxes_and_only_in_a_run_with_boxes(sessions: Sessions) -> None:
    one, two = (((1.0, 2.0, edge, 9.0, True),) for edge in (7.0, 8.0))
    new = [NewRow("a", boxes=one), NewRow("a", boxes=two), NewRow("b", boxes=two), NewRow("a", boxes=two)]
    new.append(NewRow("a"))
    run_id = load(sessions, new)
    assert {image.twin for image in _exported(sessions, run_id, 0.5)} == {""}

    with sessions.begin() as session:
        session.execute(update(Run).values(box_column="boxes"))
    first, boxed, other, duplicate, text = (image.twin for image in _exported(sessions, run_id, 0.5))
    assert [first, other] == ["", ""]
    assert "" != boxed == duplicate
    assert text not in ("", boxed)

    scenario.read_again(sessions, run_id, new[1:])  # what was the second row of its image is the first one now
    *here, gone = (image.twin for image in exported_images(sessions, run_id, 0.5, asked=Asked(gone=True)))
    assert here == ["", "", "", text]
    assert gone not in ("", text, boxed)


def test_results_come_in_the_order_of_the_prompts(sessions: Sessions) -> None:
    run_id = load(sessions, [NewRow("a"), NewRow("b", prompts=("dog", "car"))], prompts=("person", "car"))
    scenario.work_off(sessions, run_id, 0.9)
    ids = write(sessions, prompt_rows.prompt_ids, run_id, ["person", "car", "dog"])

    a, b = _exported(sessions, run_id, 0.5)

    assert [result.class_id for result in a.results] == [ids["person"], ids["car"]]
    assert [result.class_id for result in b.results] == [ids["dog"], ids["car"]]


def test_more_rows_than_a_page_are_exported_each_once(sessions: Sessions) -> None:
    count = PAGE_ROWS * 2 + 500
    run_id = load(sessions, [*numbered(count - 1), *numbered(1)], chunk_size=512)
    scenario.work_off(sessions, run_id, 0.9)

    exported = _exported(sessions, run_id, 0.5)

    assert [image.row for image in exported] == list(range(1, count + 1))
    assert all(len(image.results) == 1 for image in exported)
    assert exported[-1].state == "duplicate"


def test_only_the_rows_asked_for_are_exported(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(9))

    with reading(sessions) as session:
        assert [image.row for image in some_images(session, run_id, 0.5, [7, 2])] == [2, 7]
        assert some_images(session, run_id, 0.5, []) == []


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), min_size=2, max_size=4), st.integers(1, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_edits_the_exported_rows_are_those_of_the_source_in_its_order(
    sessions: Sessions, edits: list[list[str]], slice_rows: int
) -> None:
    name = f"run-{uuid4().hex}"
    run_id = load(sessions, rows(*edits[0]), name=name)
    for paths in edits[1:]:
        write(sessions, intake.begin_matching, run_id, 1, 1, ["path"])
        for first in range(0, len(paths), slice_rows):
            part = rows(*paths[first : first + slice_rows])
            write(sessions, intake.add_rows, run_id, first, part, matching=True)
        finish(sessions, run_id)

    exported = list(exported_images(sessions, run_id, 0.5))
    everything = list(exported_images(sessions, run_id, 0.5, asked=Asked(gone=True)))
    assert [image.path for image in exported] == edits[-1]
    assert everything[: len(exported)] == exported
    assert all(image.gone for image in everything[len(exported) :])
    run = scenario.run(sessions, run_id)
    assert (len(everything), len(everything) - len(exported)) == (run.images, run.gone)


def test_a_source_that_grows_after_an_edit_goes_on_in_its_order(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b", "c"))
    scenario.read_again(sessions, run_id, rows("c", "a"))
    write(sessions, intake.begin_reading, run_id, 3, 3, ["path"])
    scenario.add(sessions, run_id, rows("d", "b"), read=2, matching=True)
    finish(sessions, run_id)

    assert [(image.path, image.row) for image in _exported(sessions, run_id, 0.5)] == [
        ("c", 3),
        ("a", 1),
        ("d", 4),
        ("b", 2),
    ]


def test_more_rows_than_a_page_are_exported_in_their_new_order(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(PAGE_ROWS * 2 + 10), chunk_size=512)
    backwards = numbered(PAGE_ROWS * 2 + 10)[::-1]
    scenario.read_again(sessions, run_id, backwards)

    assert [image.path for image in _exported(sessions, run_id, 0.5)] == [row.path for row in backwards]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("edited", [False, True])
def test_an_export_that_stands_still_keeps_the_log_of_sqlite_no_longer_than_commits_do(
    sessions: Sessions, tmp_path: Path, *, edited: bool
) -> None:
    count = PAGE_ROWS + 10
    run_id = load(sessions, numbered(count), chunk_size=512)
    if edited:
        scenario.read_again(sessions, run_id, numbered(count))
    exported = exported_images(sessions, run_id, 0.5)
    next(exported)

    for turn in range(2000):
        write(sessions, _lengthen, run_id, f"{turn:06}" * 1000)

    # SQLite begins the log anew after about 1,000 pages of 4 KiB: 4 MB. A reader in its way would have made it 24 MB.
    assert (tmp_path / "sam3.db-wal").stat().st_size < 8_000_000
    assert sum(1 for _ in exported) == count - 1


def _lengthen(session: Session, run_id: int, model: str) -> None:
    session.execute(update(Run).where(Run.id == run_id).values(model=model))


def test_rows_that_come_after_an_export_began_are_not_in_it(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(3))
    exported = exported_images(sessions, run_id, 0.5)
    next(exported)
    scenario.read_again(sessions, run_id, numbered(5)[::-1])

    assert [image.row for image in exported] == [2, 3]


@pytest.mark.parametrize("edited", [False, True])
def test_an_export_of_a_run_that_is_deleted_meanwhile_does_not_end_as_if_it_were_whole(
    sessions: Sessions, *, edited: bool
) -> None:
    run_id = load(sessions, numbered(PAGE_ROWS + 10), chunk_size=512)
    if edited:
        scenario.read_again(sessions, run_id, numbered(PAGE_ROWS + 10))
    exported = exported_images(sessions, run_id, 0.5)
    next(exported)
    delete(sessions, run_id)

    with pytest.raises(RunGone):
        list(exported)


def test_rows_that_a_broken_off_reading_did_not_reach_are_not_gone(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b", "c"))
    scenario.read_again(sessions, run_id, rows("c"), ended=False)

    exported = _exported(sessions, run_id, 0.5)

    assert [(image.path, image.gone) for image in exported] == [("c", False), ("a", False), ("b", False)]
    assert scenario.run(sessions, run_id).gone == 0


def test_sample_rows_leave_out_what_is_gone(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b"))
    scenario.work_off(sessions, run_id, 0.9)
    scenario.read_again(sessions, run_id, rows("b"))

    with reading(sessions) as session:
        assert sample_rows(session, run_id)["most instances"] == [2]


def test_sample_rows_are_the_ones_worth_looking_at(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6), chunk_size=6)
    held = claim(sessions, run_id)
    one, two, three, four, five, six = held.images
    scenario.commit(
        sessions,
        held,
        [done(one, 0.9), done(two, 0.8, 0.7, 0.6), done(three, 0.55, 0.4), done(four, 0.4), done(five), failed(six)],
    )

    with reading(sessions) as session:
        assert sample_rows(session, run_id) == {
            "most instances": [2, 1, 3],
            "lowest score": [3, 2, 1],
            "empty": [4, 5],
            "failed": [6],
        }


def _exported(sessions: Sessions, run_id: int, min_score: float) -> list[ExportedImage]:
    return list(exported_images(sessions, run_id, min_score))
