"""Only one process at a time loads a run, and stops if the run is cancelled. On SQLite and on PostgreSQL."""

from pathlib import Path

import pytest

from db.presence import Process
from db.session import Sessions
from producer.runs.load import Recorded, record
from producer.runs.operate import cancel
from producer.sources.source import Survey
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario
from tests.producer.runs.conftest import MANY, REQUEST, load, paths, seen, write_csv
from workers.errors import UsageError

pytestmark = pytest.mark.usefixtures("small_slices")


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
