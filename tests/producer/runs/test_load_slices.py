"""How many rows a load writes in one transaction, when it pauses, and how much memory it takes."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db import presence
from db.models import Chunk, Image
from db.session import Sessions, reading, write
from producer.runs.load import record
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario
from tests.memory import traced
from tests.producer.runs.conftest import MANY, REQUEST, load, only_sqlite, paths, write_csv

pytestmark = pytest.mark.usefixtures("small_slices")


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
    monkeypatch.setattr("producer.sources.rows.rules.SLICE_CHARACTERS", 100 * (len("000001.jpg") + 2000))
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

    with traced() as memory:
        recorded = record(sessions, CsvSource(faces), replace(REQUEST, chunk_size=256), look)

    with reading(sessions) as session:
        stored = session.execute(select(func.count()).select_from(Image)).scalar_one()
        # 256 does not divide a slice of 1,000: slices end with a whole chunk, so that no chunk is left half full.
        sizes = set(session.execute(select(Chunk.images).where(Chunk.run_id == recorded.run_id)).scalars())
    assert stored == rows
    assert sizes == {256, rows % 256}
    assert memory.peak - after_two_slices[0] < 8_000_000, "20,000 rows at once would take more than 20 MB"
