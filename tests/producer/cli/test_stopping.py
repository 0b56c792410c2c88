"""A run whose cancel or delete was killed half-way: what shows it, what refuses it, what finishes it."""

import re
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from db import runs
from db.runs import begin_delete
from db.session import Sessions, write
from db.views.run_views import RunView
from producer.cli.cancel import main as cancel
from producer.cli.delete import main as delete
from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export
from producer.cli.found import Found, view_of
from producer.cli.retry import main as retry
from producer.cli.status import main as status
from producer.results.status import Standing
from tests.db import scenario
from tests.db.scenario import load, numbered
from tests.producer.cli.conftest import Shell
from workers.cli.base import Sam3Command

COMMANDS = {"sam3-cancel": cancel, "sam3-delete": delete, "sam3-retry": retry}
HINT = re.compile(r"(sam3-\w+) ([\w./:-]+)")


@pytest.fixture
def run_id(shell: Shell) -> int:
    """Three chunks: one is done, four images failed, four are pending."""
    run_id = load(shell.sessions, numbered(12))
    scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, run_id), 0.9)
    held = scenario.claim(shell.sessions, run_id)
    scenario.commit(shell.sessions, held, [scenario.failed(image) for image in held.images])
    return run_id


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(
    ("command", "end"),
    [(retry, ["pending"] * 12), (cancel, ["cancelled"] * 12), (delete, [])],
    ids=["retry", "cancel", "delete"],
)
def test_ctrl_c_in_the_middle_says_nothing_and_the_same_command_finishes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, command: Sam3Command, end: list[str]
) -> None:
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 4)
    run_id, name = load(shell.sessions, numbered(12)), str(command.name).removeprefix("sam3-")
    while command is retry and (held := scenario.try_claim(shell.sessions, run_id)) is not None:
        scenario.commit(shell.sessions, held, [scenario.failed(image) for image in held.images])
    given = ["faces", *(["--yes"] if command is delete else [])]
    slice_of, before = getattr(runs, f"{name}_slice"), list[int]()

    def interrupted(*given: Any, **also: Any) -> Any:
        if before:
            signal.raise_signal(signal.SIGINT)
        before.append(1)
        return slice_of(*given, **also)

    with monkeypatch.context() as second_slice:
        second_slice.setattr(runs, f"{name}_slice", interrupted)
        said = shell(command, *given, code=130)
    assert (said.out, said.err.strip()) == ("", "")
    assert scenario.states(shell.sessions, run_id).count(*end[:1] or ["pending"]) in (4, 8)

    shell(command, *given)
    assert scenario.states(shell.sessions, run_id) == end


def follow(shell: Shell, line: str) -> None:
    """Type the first command that a line advises, as it stands there."""
    found = HINT.search(line)
    assert found is not None, line
    command, run = found.groups()
    shell(COMMANDS[command], *shlex.split(run), *(["--yes"] if command == "sam3-delete" else []))


def flags(command: Sam3Command, home: Path) -> Sequence[object]:
    if command is enqueue:
        table = home / "faces.csv"
        table.write_text("path\na.jpg\n")
        return ["--csv", table, "--prompt", "person"]
    return ["faces", "--format", "csv", "--partial", "-o", "out.csv"] if command is export else ["faces"]


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("command", [cancel, retry, export, enqueue], ids=lambda command: command.name)
def test_of_a_run_that_is_being_deleted_everything_is_refused_but_to_finish_that(
    shell: Shell, run_id: int, command: Sam3Command
) -> None:
    scenario.begin_delete(shell.sessions, run_id, chunks=1)

    error = shell(command, *flags(command, shell.home), code=4).error

    assert error == "sam3: error: run faces is being deleted; sam3-delete faces finishes that"
    follow(shell, error.partition("; ")[2])
    assert shell(status, "--json").json["runs"] == []
    assert not (shell.home / "out.csv").exists()


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("command", [retry, enqueue], ids=lambda command: command.name)
def test_a_run_that_is_being_cancelled_is_not_taken_up_before_that_is_finished(
    shell: Shell, run_id: int, command: Sam3Command
) -> None:
    scenario.begin_cancel(shell.sessions, run_id)

    error = shell(command, *flags(command, shell.home), code=2).error

    assert error == (
        "sam3: error: run faces is being cancelled; sam3-cancel faces finishes that, and sam3-retry faces takes it up"
        " again"
    )
    follow(shell, error.partition("; ")[2])
    assert scenario.run(shell.sessions, run_id).state == "cancelled"
    follow(shell, error.partition(", and ")[2])
    assert scenario.states(shell.sessions, run_id) == ["done"] * 4 + ["pending"] * 8


def test_status_says_what_is_left_to_cancel_and_who_does_it(shell: Shell, run_id: int) -> None:
    scenario.begin_cancel(shell.sessions, run_id)

    told = shell(status, "faces", "--json").json

    assert (told["state"], told["images"]["pending"], told["eta_seconds"]) == ("cancelling", 4, None)
    assert told["waiting_for"] == (
        "cancelling: 4 images still to cancel; goes on by itself while workers run, or at once with the same"
        " sam3-cancel again"
    )
    assert shell(cancel, "faces").out == "run faces: 4 images cancelled\n"
    assert shell(status, "faces", "--json", code=1).json["state"] == "cancelled"


def test_status_says_what_is_left_to_delete_and_who_does_it(shell: Shell, run_id: int) -> None:
    scenario.begin_delete(shell.sessions, run_id, chunks=1)

    told = shell(status, "faces", "--json").json

    assert (told["state"], told["images"]["total"], told["images"]["segmented"]) == ("deleting", 8, 0)
    assert told["waiting_for"] == (
        "deleting: 8 rows still to delete; goes on by itself while workers run, or at once with the same sam3-delete"
        " again"
    )
    assert shell(status).out.startswith("deleting   faces: 4/8 images")
    assert shell(delete, "faces", "--yes").out == "run faces: 8 images deleted\n"


def test_an_export_of_a_half_cancelled_run_says_how_to_end_it(shell: Shell, run_id: int) -> None:
    scenario.begin_cancel(shell.sessions, run_id)

    error = shell(export, "faces", "--format", "csv", "-o", "out.csv", code=1).error

    assert "finish its cancel (sam3-cancel faces)" in error
    follow(shell, error)
    shell(export, "faces", "--format", "csv", "-o", "out.csv")


def test_a_half_cancelled_run_can_be_deleted(shell: Shell, run_id: int) -> None:
    scenario.begin_cancel(shell.sessions, run_id)

    assert shell(delete, "faces", "--yes").out == "run faces: 12 images deleted\n"


@pytest.mark.parametrize("given", [("--wait",), ("--watch",), ()])
def test_a_run_that_is_deleted_while_it_is_looked_at_ends_the_look_in_one_line(
    shell: Shell, run_id: int, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    monkeypatch.setattr("producer.cli.standing.WATCH_SECONDS", 0.01)
    looks: list[int] = []

    def look(sessions: Sessions, run: int, begin: str = "", **more: Any) -> Standing:
        looks.append(run)
        if len(looks) == (2 if given else 1):
            scenario.delete(shell.sessions, run_id)
        return Standing(sessions, run, begin)

    monkeypatch.setattr("producer.cli.standing.Standing", look)

    told = shell(status, "faces", *given, code=4)

    assert told.out == ""
    assert told.err.splitlines()[-1] == (
        "sam3: error: the run was deleted meanwhile; sam3-status lists those that there are"
    )


def test_a_run_that_is_deleted_while_it_is_exported_leaves_no_half_file(
    shell: Shell, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_delete(found: Found) -> RunView:
        view = view_of(found)
        write(shell.sessions, begin_delete, run_id)
        return view

    monkeypatch.setattr("producer.cli.exported.view_of", then_delete)

    told = shell(export, "faces", "--format", "csv", "--partial", "-o", "out.csv", code=4)

    assert told.error == "sam3: error: run faces is being deleted; sam3-delete faces finishes that"
    assert list(shell.home.iterdir()) == []
    scenario.delete(shell.sessions, run_id)
