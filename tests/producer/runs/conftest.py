"""What the tests of loads share: a CSV that changes, and a load of it that may be killed."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from db.session import Sessions
from db.slices import SLICE_ROWS
from producer.runs.load import Recorded, record
from producer.runs.request import RunRequest
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario

REQUEST = RunRequest("faces", ("person",), scenario.FROZEN, chunk_size=4)
MANY = 2500  # rows: three slices
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Killed(Exception):
    """Stands for kill -9: nobody catches it."""


@pytest.fixture
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
