"""From a CSV to a recorded run: new, read again, killed in the middle, cancelled. On SQLite and on PostgreSQL."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from db.models import Image
from db.runs import RetryFilter
from db.session import Sessions, reading
from producer.runs.load import Recorded, auto_chunk_size, record
from producer.runs.operate import cancel, retry
from producer.sources.folder import FolderSource
from producer.sources.source import ReadOptions, Survey
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario
from tests.producer.runs.conftest import MANY, REQUEST, load, load_until_killed, only_sqlite, paths, seen, write_csv
from workers.errors import UsageError

pytestmark = pytest.mark.usefixtures("small_slices")


class Unread(CsvSource):
    """Fails the test when more than the file's start is read."""

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        raise AssertionError("the file was read again")


def test_a_new_csv_becomes_an_active_run_with_its_rows_packed_into_chunks(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(10), note="a friend")

    recorded = load(sessions, faces)

    assert (recorded.new_rows, recorded.gone_rows) == (10, 0)
    assert scenario.run(sessions, recorded.run_id).state == "active"
    assert [(chunk.number, chunk.images) for chunk in scenario.chunks(sessions, recorded.run_id)] == [
        *((1, 4), (2, 4), (3, 2))
    ]
    first = scenario.images(sessions, recorded.run_id)[0]
    assert (first.row, first.path, first.cells, first.state) == (1, "000001.jpg", {"note": "a friend"}, "pending")


def test_how_far_the_load_is_is_told_slice_by_slice(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(MANY))
    told: list[tuple[int, int]] = []

    record(sessions, CsvSource(faces), REQUEST, lambda done, total: told.append((done, total)))

    assert told == [(1000, MANY), (2000, MANY), (MANY, MANY)]


def test_the_same_file_again_is_not_even_read(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(10))
    first = load(sessions, faces)

    again = record(sessions, Unread(faces), REQUEST, lambda done, total: None)

    assert again == Recorded(first.run_id, 0, 0)


def test_a_touched_file_with_the_same_content_brings_nothing_new(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(10))
    first = load(sessions, faces)
    scenario.work_off(sessions, first.run_id, 0.9)
    write_csv(faces, paths(10))

    assert load(sessions, faces) == Recorded(first.run_id, 0, 0)
    assert scenario.run(sessions, first.run_id).state == "done"


def test_a_killed_load_goes_on_where_it_stopped(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, [*paths(MANY - 1), "000001.jpg"])
    assert load_until_killed(sessions, faces) == 1000
    told: list[int] = []

    recorded = record(sessions, CsvSource(faces), REQUEST, lambda done, total: told.append(done))

    assert told == [2000, MANY]
    assert recorded.new_rows == MANY - 1000
    assert seen(sessions, recorded.run_id)[:-1] == list(enumerate(paths(MANY - 1), start=1))
    last = scenario.images(sessions, recorded.run_id)[-1]
    assert (last.row, last.path, last.state) == (MANY, "000001.jpg", "duplicate")


def test_nothing_of_a_killed_load_can_be_claimed_before_it_is_complete(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(MANY))
    load_until_killed(sessions, faces)
    with reading(sessions) as session:
        [run_id] = session.execute(select(Image.run_id).distinct()).scalars()

    assert scenario.run(sessions, run_id).state == "loading"
    assert scenario.try_claim(sessions, run_id) is None


@pytest.mark.parametrize(
    ("rows", "workers", "size"),
    [(1, 0, 8), (10, 1, 8), (400, 1, 100), (400, 8, 13), (1024, 1, 256), (10**8, 1000, 256)],
)
def test_chunks_are_small_in_small_runs_so_that_all_workers_end_together(rows: int, workers: int, size: int) -> None:
    assert auto_chunk_size(rows, workers) == size


@only_sqlite
def test_the_chosen_chunk_size_counts_the_workers_there_are_and_stays(sessions: Sessions, faces: Path) -> None:
    scenario.worker(sessions, 1)
    scenario.worker(sessions, 2)
    write_csv(faces, paths(160))
    first = load(sessions, faces, replace(REQUEST, chunk_size=None))
    assert [chunk.images for chunk in scenario.chunks(sessions, first.run_id)] == [20] * 8

    scenario.worker(sessions, 3)
    write_csv(faces, paths(200))
    load(sessions, faces, replace(REQUEST, chunk_size=None))

    assert [chunk.images for chunk in scenario.chunks(sessions, first.run_id)] == [20] * 10


def test_duplicates_are_found_in_a_load_that_was_cancelled_and_taken_up_again(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, [*paths(MANY), *paths(MANY)])

    def cancel_it(done: int, total: int) -> None:
        cancel(sessions, 1)

    with pytest.raises(UsageError):
        record(sessions, CsvSource(faces), REQUEST, cancel_it)
    retry(sessions, 1, RetryFilter())
    load(sessions, faces)

    assert scenario.states(sessions, 1).count("duplicate") == MANY


def test_rows_of_their_own_prompts_are_told_apart_when_duplicates_are_looked_for(
    sessions: Sessions, faces: Path
) -> None:
    write_csv(faces, ["a.jpg"], note="dog")
    with faces.open("a") as file:
        file.write("a.jpg,cat|dog\na.jpg,dog\na.jpg,\n")

    source = CsvSource(faces, ReadOptions(prompt_column="note"))
    recorded = record(sessions, source, REQUEST, lambda done, total: None)

    assert scenario.states(sessions, recorded.run_id) == ["pending", "pending", "duplicate", "pending"]


@only_sqlite
def test_a_folder_is_a_run_too_and_new_images_of_it_are_added(sessions: Sessions, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("b.jpg", "d.png"):
        (photos / name).touch()
    first = record(sessions, FolderSource(photos), REQUEST, lambda done, total: None)
    (photos / "a.jpg").touch()

    grown = record(sessions, FolderSource(photos), REQUEST, lambda done, total: None)

    assert (first.new_rows, grown.new_rows, grown.gone_rows) == (2, 1, 0)
    assert seen(sessions, first.run_id) == [(1, "b.jpg"), (2, "d.png"), (3, "a.jpg")]
