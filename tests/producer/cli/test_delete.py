"""`sam3-delete` as it is typed."""

from io import StringIO

import pytest

from db.session import Sessions, compact, reading
from producer.cli.delete import main as delete
from producer.cli.status import main as status
from tests.db import scenario
from tests.db.scenario import load, numbered
from tests.producer.cli.conftest import Shell


class Keyboard(StringIO):
    """Somebody at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def faces(shell: Shell) -> None:
    load(shell.sessions, numbered(8))


@pytest.mark.usefixtures("faces")
def test_a_run_is_forgotten_without_a_question_when_yes_is_given(shell: Shell) -> None:
    assert shell(delete, "faces", "--yes").out == "run faces: 8 images deleted\n"
    assert shell(status, "--json").json["runs"] == []
    assert shell(delete, "faces", "--yes", code=4).error.startswith("sam3: error: no run called faces; ")


@pytest.mark.usefixtures("faces")
def test_the_json_counts_the_images(shell: Shell) -> None:
    assert shell(delete, "faces", "--yes", "--json").json == {"schema": 1, "run": "faces", "deleted": 8}


@pytest.mark.usefixtures("faces")
@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 130, 1), ("", 130, 1)])
def test_a_person_is_asked_first(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(f"{answer}\n"))

    told = shell(delete, "faces", code=code)

    assert "Delete run faces and all its results?" in told.err
    assert len(shell(status, "--json").json["runs"]) == left


@pytest.mark.usefixtures("faces")
def test_a_script_is_not_asked_but_told_what_to_add(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("y\n"))

    error = shell(delete, "faces", code=2).error

    assert error == "sam3: error: sam3-delete faces: add --yes to delete without being asked"


def test_the_space_goes_back_to_the_disk(shell: Shell) -> None:
    run_id = load(shell.sessions, numbered(2000), chunk_size=1000)
    scenario.work_off(shell.sessions, run_id, *([0.9] * 5))
    before = pages(shell)

    shell(delete, "faces", "--yes")

    assert pages(shell) < before / 2


@pytest.mark.usefixtures("faces")
def test_a_database_in_use_keeps_its_space_for_now_and_the_run_is_gone_all_the_same(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compact_beside_a_writer(sessions: Sessions) -> None:
        with sessions.kw["bind"].connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=100")  # instead of 10 s
        with shell.sessions.begin() as session:
            session.connection()
            compact(sessions)

    monkeypatch.setattr("db.session.compact", compact_beside_a_writer)

    told = shell(delete, "faces", "--yes")

    assert told.out == "run faces: 8 images deleted\n"
    assert told.err == "its space is given back by a later sam3-delete: database is locked\n"
    assert shell(status, "--json").json["runs"] == []


def pages(shell: Shell) -> int:
    """The database's size, whatever of it is still in the write-ahead log."""
    with reading(shell.sessions) as session:
        return int(session.connection().exec_driver_sql("PRAGMA page_count").scalar_one())
