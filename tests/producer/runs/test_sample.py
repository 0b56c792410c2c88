"""A sample of a source's rows, and how it becomes a part of the whole run. On SQLite and on PostgreSQL."""

from dataclasses import replace
from pathlib import Path

import pytest

from db.session import Sessions
from db.slices import SLICE_ROWS
from db.views.results import exported_images
from producer.runs.load import Recorded, record
from producer.runs.request import RunRequest
from producer.sources.folder import FolderSource
from producer.sources.sampling import chosen
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario
from workers.errors import UsageError

REQUEST = RunRequest("faces", ("person",), scenario.FROZEN, chunk_size=4)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    path = tmp_path / "faces.csv"
    path.write_text("path,n\n" + "".join(f"{number:04}.jpg,{number}\n" for number in range(50)))
    return path


def load(sessions: Sessions, faces: Path, sample: int | None = None, seed: int = 0) -> Recorded:
    request = replace(REQUEST, sample=sample, seed=seed)
    return record(sessions, CsvSource(faces), request, lambda done, total: None)


def exported(sessions: Sessions, run_id: int = 1) -> list[tuple[str, str]]:
    return [(image.path, image.state) for image in exported_images(sessions, run_id, 0.5)]


def names(numbers: list[int]) -> list[str]:
    return [f"{number:04}.jpg" for number in numbers]


def test_a_larger_sample_has_the_rows_of_a_smaller_one_and_other_seeds_have_others() -> None:
    small, large = chosen(10_000, 100, 1), chosen(10_000, 300, 1)
    assert len(small) == len(set(small)) == 100
    assert set(small) < set(large)
    assert small == sorted(small)
    assert set(chosen(10_000, 100, 2)) != set(small)
    assert len(set(chosen(20_000, 100, 1)) & set(small)) > 20, "a source that grew keeps about half"
    assert chosen(7, 7, 1) == chosen(7, 99, 1) == list(range(7))
    tenths = [sum(number // 1000 == tenth for number in chosen(10_000, 2000, 3)) for tenth in range(10)]
    assert max(tenths) < 260


def test_a_sample_is_recorded_in_the_order_of_the_source_and_again_it_adds_nothing(
    sessions: Sessions, faces: Path
) -> None:
    assert load(sessions, faces, 10).new_rows == 10
    expected = names(chosen(50, 10, 0))
    assert [path for path, _ in exported(sessions)] == expected
    scenario.work_off(sessions, 1, 0.9)

    assert load(sessions, faces, 10) == Recorded(1, 0, 0)
    assert exported(sessions) == [(path, "done") for path in expected]
    assert scenario.run(sessions, 1).state == "done"


def test_the_sample_becomes_a_part_of_a_larger_one_and_of_the_whole_run(sessions: Sessions, faces: Path) -> None:
    load(sessions, faces, 10)
    scenario.work_off(sessions, 1, 0.9)
    sample = {path for path, _ in exported(sessions)}

    assert load(sessions, faces, 20) == Recorded(1, 10, 0)
    assert {path for path, state in exported(sessions) if state == "done"} == sample
    assert [path for path, _ in exported(sessions)] == names(chosen(50, 20, 0))
    assert load(sessions, faces) == Recorded(1, 30, 0)

    whole = exported(sessions)
    assert [path for path, _ in whole] == names(list(range(50)))
    assert {path for path, state in whole if state == "done"} == sample
    assert len(scenario.images(sessions, 1)) == 50
    assert load(sessions, faces) == Recorded(1, 0, 0)
    faces.write_text(faces.read_text() + "new.jpg,50\n")
    with pytest.raises(UsageError, match="--sample: run faces has all rows of its source already; leave --sample out"):
        load(sessions, faces, 10)
    assert load(sessions, faces) == Recorded(1, 1, 0)


def test_another_seed_adds_other_rows_and_a_sample_of_all_rows_is_the_whole_run(
    sessions: Sessions, faces: Path
) -> None:
    load(sessions, faces, 10)
    other = load(sessions, faces, 10, seed=1)
    both = {*names(chosen(50, 10, 0)), *names(chosen(50, 10, 1))}
    assert other.new_rows == len(both) - 10
    assert {path for path, _ in exported(sessions)} == both

    assert load(sessions, faces, 50).new_rows == 50 - len(both)
    assert load(sessions, faces, 60) == Recorded(1, 0, 0)


def test_a_sample_that_was_killed_goes_on_and_so_does_the_whole_run_after_it(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def die(done: int, total: int) -> None:
        raise Killed

    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", SLICE_ROWS)
    faces = tmp_path / "faces.csv"
    faces.write_text("path\n" + "".join(f"{number:04}.jpg\n" for number in range(3000)) + "0007.jpg\n")
    request = replace(REQUEST, chunk_size=250, sample=2500, seed=3)
    with pytest.raises(Killed):
        record(sessions, CsvSource(faces), request, die)
    assert scenario.run(sessions, 1).state == "loading"
    expected = chosen(3001, 2500, 3)

    resumed = record(sessions, CsvSource(faces), request, lambda done, total: None)

    assert resumed.new_rows == 1500
    assert [path for path, _ in exported(sessions)] == [*names([number if number < 3000 else 7 for number in expected])]
    with pytest.raises(Killed):
        record(sessions, CsvSource(faces), replace(request, sample=None), die)
    record(sessions, CsvSource(faces), replace(request, sample=None), lambda done, total: None)
    assert [path for path, _ in exported(sessions)] == [*names([*range(3000), 7])]
    assert scenario.states(sessions, 1).count("duplicate") == 1


def test_the_source_of_a_sample_that_was_moved_is_known_by_its_rows(sessions: Sessions, faces: Path) -> None:
    load(sessions, faces, 10)
    moved, other = faces.with_name("moved.csv"), faces.with_name("other.csv")
    other.write_text("path,n\n" + "".join(f"{number:04}.jpg,0\n" for number in range(20)))
    faces.rename(moved)

    with pytest.raises(UsageError, match="does not hold what was recorded from"):
        load(sessions, other, 10)
    assert load(sessions, moved, 20).new_rows == 10
    assert load(sessions, moved).new_rows == 30


def test_a_sample_of_a_folder_becomes_a_part_of_it(sessions: Sessions, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in names(list(range(20))):
        (photos / name).touch()
    sampled = record(sessions, FolderSource(photos), replace(REQUEST, sample=5), lambda done, total: None)
    assert [path for path, _ in exported(sessions)] == names(chosen(20, 5, 0))

    assert record(sessions, FolderSource(photos), REQUEST, lambda done, total: None) == Recorded(sampled.run_id, 15, 0)
    assert [path for path, _ in exported(sessions)] == names(list(range(20)))
