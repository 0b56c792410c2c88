"""Which rows are read of a source that has grown or was edited, and with a limit. On SQLite and on PostgreSQL."""

from dataclasses import replace
from pathlib import Path

import pytest

from db.session import Sessions
from db.views.results import exported_images
from producer.runs.load import Recorded
from tests.db import scenario
from tests.producer.runs.conftest import MANY, REQUEST, load, load_until_killed, paths, seen, write_csv

pytestmark = pytest.mark.usefixtures("small_slices")


def test_rows_added_at_the_end_are_the_only_new_ones(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(6))
    first = load(sessions, faces)
    scenario.work_off(sessions, first.run_id, 0.9)
    write_csv(faces, paths(9))

    grown = load(sessions, faces)

    assert grown == Recorded(first.run_id, 3, 0)
    assert scenario.states(sessions, first.run_id) == ["done"] * 6 + ["pending"] * 3
    assert [chunk.number for chunk in scenario.chunks(sessions, first.run_id)] == [1, 2, 3]
    assert scenario.run(sessions, first.run_id).state == "active"


def test_an_edited_file_keeps_the_numbers_of_known_rows_and_says_which_are_gone(
    sessions: Sessions, faces: Path
) -> None:
    write_csv(faces, paths(5), note="old")
    first = load(sessions, faces)
    write_csv(faces, ["new.jpg", *reversed(paths(4))], note="edited")

    edited = load(sessions, faces)

    assert edited == Recorded(first.run_id, 1, 1)
    assert seen(sessions, first.run_id) == [*enumerate(paths(5), start=1), (6, "new.jpg")]
    notes = [(image.cells or {})["note"] for image in scenario.images(sessions, first.run_id)]
    assert notes == ["edited"] * 4 + ["old", "edited"]


def test_a_matching_that_is_killed_goes_on_as_one(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(MANY))
    first = load(sessions, faces)
    write_csv(faces, [*reversed(paths(MANY)), "new.jpg"])
    assert load_until_killed(sessions, faces) == 1000

    assert load(sessions, faces) == Recorded(first.run_id, 1, 0)
    assert seen(sessions, first.run_id) == [*enumerate(paths(MANY), start=1), (MANY + 1, "new.jpg")]


def test_a_file_that_grew_before_its_killed_load_went_on_is_matched(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(MANY))
    load_until_killed(sessions, faces)
    write_csv(faces, ["0.jpg", *paths(MANY)])

    recorded = load(sessions, faces)

    assert recorded.new_rows == MANY + 1 - 1000
    assert sorted(path for _, path in seen(sessions, recorded.run_id)) == sorted(["0.jpg", *paths(MANY)])


def test_a_limit_reads_the_first_rows_and_a_later_run_without_it_the_others(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(10))

    first = load(sessions, faces, replace(REQUEST, limit=3))
    same = load(sessions, faces, replace(REQUEST, limit=3))
    rest = load(sessions, faces)

    assert [first.new_rows, same.new_rows, rest.new_rows] == [3, 0, 7]
    assert seen(sessions, first.run_id) == list(enumerate(paths(10), start=1))


def test_a_row_that_an_edit_took_out_and_that_is_appended_later_is_the_old_row(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, ["a.jpg", "b.jpg", "c.jpg"])
    load(sessions, faces)
    write_csv(faces, ["c.jpg", "a.jpg"])
    assert load(sessions, faces).gone_rows == 1
    with faces.open("a") as file:
        file.write("b.jpg,\nd.jpg,\n")

    grown = load(sessions, faces)

    assert (grown.new_rows, grown.gone_rows) == (1, 0)
    exported = [(image.path, image.state) for image in exported_images(sessions, grown.run_id, 0.5)]
    assert exported == [("c.jpg", "pending"), ("a.jpg", "pending"), ("b.jpg", "pending"), ("d.jpg", "pending")]


def test_a_limit_reports_no_row_as_gone(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(10))
    load(sessions, faces)
    write_csv(faces, reversed(paths(10)))

    assert load(sessions, faces, replace(REQUEST, limit=3)).gone_rows == 0
