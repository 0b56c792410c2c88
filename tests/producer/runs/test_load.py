"""From a CSV to a recorded run: new, killed in the middle, grown, edited, refused. On SQLite and on PostgreSQL."""

import os
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db import presence
from db.models import Chunk, Image
from db.presence import Process
from db.runs import RetryFilter
from db.session import Sessions, reading, write
from db.slices import SLICE_ROWS
from db.views.results import exported_images
from producer.runs.load import Recorded, auto_chunk_size, record
from producer.runs.operate import cancel, retry
from producer.runs.request import RunRequest
from producer.sources.csv_source import CsvSource
from producer.sources.folder import FolderSource
from producer.sources.source import ReadOptions, Survey
from tests.db import scenario
from workers.errors import UsageError

REQUEST = RunRequest("faces", ("person",), scenario.FROZEN, chunk_size=4)
MANY = 2500  # rows: three slices
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Killed(Exception):
    """Stands for kill -9: nobody catches it."""


class Unread(CsvSource):
    """Fails the test when more than the file's start is read."""

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        raise AssertionError("the file was read again")


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while workers are busy, so that a small file has several."""
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", SLICE_ROWS)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return tmp_path / "faces.csv"


def write_csv(csv: Path, paths: Iterable[str], *, note: str = "") -> None:
    """A CSV with a new mtime, whatever the clock of the file system."""
    before = csv.stat().st_mtime_ns if csv.exists() else 0
    csv.write_text("path,note\n" + "".join(f"{path},{note}\n" for path in paths))
    os.utime(csv, ns=(before + 10**9, before + 10**9))


def paths(count: int, first: int = 1) -> list[str]:
    return [f"{number:06}.jpg" for number in range(first, first + count)]


def load(sessions: Sessions, csv: Path, request: RunRequest = REQUEST) -> Recorded:
    return record(sessions, CsvSource(csv), request, lambda done, total: None)


def load_until_killed(sessions: Sessions, csv: Path, request: RunRequest = REQUEST) -> int:
    """Kill the load after its first slice; return how many rows that was."""
    read: list[int] = []

    def die(done: int, total: int) -> None:
        read.append(done)
        raise Killed

    with pytest.raises(Killed):
        record(sessions, CsvSource(csv), request, die)
    return read[0]


def seen(sessions: Sessions, run_id: int) -> list[tuple[int, str]]:
    return [(image.row, image.path) for image in scenario.images(sessions, run_id)]


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


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (
            replace(REQUEST, prompts=("person", "dog")),
            "prompt person there, person, dog here. To change its prompts: the same command with --add-prompt dog",
        ),
        (
            replace(REQUEST, frozen=replace(scenario.FROZEN, threshold=0.7)),
            "threshold 0.5 there, 0.7 here. No GPU is needed for that: "
            "sam3-export faces --format csv --threshold 0.7 -o faces-0.7.csv",
        ),
        (
            replace(REQUEST, frozen=replace(scenario.FROZEN, threshold=0.2, score_floor=0.2)),
            "threshold 0.5 there, 0.2 here; score-floor 0.3 there, 0.2 here",
        ),
        (replace(REQUEST, frozen=replace(scenario.FROZEN, mask_rule="meta")), "mask-rule library there, meta here"),
        (
            replace(REQUEST, frozen=replace(scenario.FROZEN, model="facebook/sam3", orientation="raw")),
            "model tiny there, facebook/sam3 here; orientation exif there, raw here",
        ),
    ],
)
@only_sqlite
def test_other_settings_under_the_same_name_are_refused_with_the_difference(
    sessions: Sessions, faces: Path, changed: RunRequest, difference: str
) -> None:
    write_csv(faces, paths(3))
    recorded = load(sessions, faces)
    held = scenario.claim(sessions, recorded.run_id)
    scenario.commit(sessions, held, [scenario.done(held.images[0], 0.9)])

    with pytest.raises(UsageError) as refused:
        load(sessions, faces, changed)

    assert str(refused.value) == (
        f"run faces has results with other settings: {difference}. Give this one another name with --run, "
        "or the same settings; or sam3-delete faces first"
    )


@only_sqlite
def test_another_file_or_another_way_to_read_it_is_refused(sessions: Sessions, faces: Path, tmp_path: Path) -> None:
    write_csv(faces, paths(3))
    recorded = load(sessions, faces)
    other = tmp_path / "other.csv"
    write_csv(other, paths(3))

    with pytest.raises(UsageError, match=f"source {faces} there, {other} here"):  # be it without results
        load(sessions, other)
    scenario.work_off(sessions, recorded.run_id, 0.9)
    with pytest.raises(UsageError, match="image-column path there, note here"):
        record(sessions, CsvSource(faces, ReadOptions(image_column="note")), REQUEST, lambda done, total: None)
    with pytest.raises(UsageError, match=f"image-root none there, {tmp_path / 'images'} here"):
        record(sessions, CsvSource(faces, ReadOptions(root=tmp_path / "images")), REQUEST, lambda done, total: None)
    with pytest.raises(UsageError, match=f"image-root none there, {tmp_path} here"):  # the same folder, but confined
        record(sessions, CsvSource(faces, ReadOptions(root=tmp_path)), REQUEST, lambda done, total: None)
    with pytest.raises(UsageError, match="prompt-column none there, note here"):
        record(sessions, CsvSource(faces, ReadOptions(prompt_column="note")), REQUEST, lambda done, total: None)


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


def test_of_two_loaders_at_once_one_records_every_row_and_the_other_says_so(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(MANY))
    second: list[Recorded] = []

    def load_too(done: int, total: int) -> None:
        if not second:
            second.append(load(sessions, faces))

    with pytest.raises(UsageError, match="run faces is being loaded by another sam3-enqueue; run this again"):
        record(sessions, CsvSource(faces), REQUEST, load_too)

    assert second[0].new_rows == MANY - 1000
    assert seen(sessions, second[0].run_id) == list(enumerate(paths(MANY), start=1))


def test_of_two_that_create_the_same_run_the_later_finds_everything_done(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(5))

    class Slow(CsvSource):
        def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
            load(sessions, faces)  # somebody else, while we read the file
            return super().survey(known_size, known_sha256)

    assert record(sessions, Slow(faces), REQUEST, lambda done, total: None).new_rows == 0
    assert len(scenario.states(sessions, 1)) == 5


def test_while_one_loads_a_run_another_is_refused_at_every_moment(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, [*paths(MANY), *paths(MANY)])  # with duplicates to be found
    refused = []

    def another(done: int, total: int) -> None:
        with pytest.raises(UsageError, match="run faces is being loaded by another sam3-enqueue") as error:
            record_elsewhere(sessions, faces)
        refused.append(error)

    record(sessions, CsvSource(faces), REQUEST, another)

    assert len(refused) > 1
    assert scenario.states(sessions, 1).count("duplicate") == MANY


def record_elsewhere(sessions: Sessions, faces: Path) -> None:
    """As another process would: the lease tells processes apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("producer.runs.loader.this_process", lambda: Process("elsewhere", "boot", 1, 1))
        record(sessions, CsvSource(faces), REQUEST, lambda done, total: None)


def test_a_load_whose_run_is_cancelled_stops_and_says_how_to_go_on(sessions: Sessions, faces: Path) -> None:
    write_csv(faces, paths(MANY))

    def cancel_it(done: int, total: int) -> None:
        cancel(sessions, 1)

    with pytest.raises(UsageError) as stopped:
        record(sessions, CsvSource(faces), REQUEST, cancel_it)

    assert str(stopped.value) == ("run faces was cancelled while it was loaded; sam3-retry faces takes up what it had")
    assert set(scenario.states(sessions, 1)) == {"cancelled"}


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


@only_sqlite
@pytest.mark.parametrize("state", ["running", "idle"])
def test_loading_pauses_after_each_slice_only_while_workers_are_busy(
    sessions: Sessions, faces: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    worker = scenario.worker(sessions)
    write(sessions, presence.report, worker, state=state)
    pauses: list[float] = []
    monkeypatch.setattr("db.slices.time.sleep", pauses.append)
    write_csv(faces, paths(MANY))

    load(sessions, faces)

    assert len(pauses) == (3 if state == "running" else 0)
    assert all(seconds > 0 for seconds in pauses)


@only_sqlite
@pytest.mark.parametrize(("state", "told"), [("idle", [2304, 2500]), ("running", [768, 1536, 2304, 2500])])
def test_slices_are_small_only_while_workers_are_busy_and_end_with_a_whole_chunk(
    sessions: Sessions, faces: Path, monkeypatch: pytest.MonkeyPatch, state: str, told: list[int]
) -> None:
    write(sessions, presence.report, scenario.worker(sessions), state=state)
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 2400)
    write_csv(faces, paths(MANY))
    seen: list[int] = []

    record(sessions, CsvSource(faces), replace(REQUEST, chunk_size=256), lambda done, total: seen.append(done))

    assert seen == told


@only_sqlite
def test_slices_of_wide_rows_end_with_the_chunk_that_fills_them(
    sessions: Sessions, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.sources.rows.SLICE_CHARACTERS", 100 * (len("000001.jpg") + 2000))
    write_csv(faces, paths(300), note="x" * 2000)
    seen: list[int] = []

    recorded = record(sessions, CsvSource(faces), replace(REQUEST, chunk_size=8), lambda done, total: seen.append(done))

    assert seen == [104, 208, 300]  # 13 chunks of 8 are the first to hold 100 rows
    assert [chunk.images for chunk in scenario.chunks(sessions, recorded.run_id)] == [8] * 37 + [4]


@only_sqlite
def test_memory_does_not_grow_with_the_rows(sessions: Sessions, faces: Path) -> None:
    rows = 20_000
    write_csv(faces, paths(rows), note="x" * 100)
    after_two_slices: list[int] = []

    def look(done: int, total: int) -> None:
        if done >= 2000 and not after_two_slices:
            after_two_slices.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        recorded = record(sessions, CsvSource(faces), replace(REQUEST, chunk_size=256), look)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    with reading(sessions) as session:
        stored = session.execute(select(func.count()).select_from(Image)).scalar_one()
        # 256 does not divide a slice of 1,000: slices end with a whole chunk, so that no chunk is left half full.
        sizes = set(session.execute(select(Chunk.images).where(Chunk.run_id == recorded.run_id)).scalars())
    assert stored == rows
    assert sizes == {256, rows % 256}
    assert peak - after_two_slices[0] < 8_000_000, "20,000 rows at once would take more than 20 MB"
