"""A run that is not over is exported only when a part of it is asked for, and then the part is called one."""

import csv
import json
from pathlib import Path

import pytest
from sqlalchemy import update

from db import intake
from db.models import Run
from db.runs import RetryFilter
from db.session import Sessions, read, write
from db.states import RunState
from db.views.run_views import run_view
from producer.cli.export import main as export
from producer.cli.pause import main as pause
from producer.cli.resume import main as resume
from producer.cli.retry import main as retry
from producer.results.choice import Choice
from producer.results.common import ExportRequest, read_images
from producer.results.exports.csv_file import export_csv
from producer.runs.operate import cancel
from producer.runs.operate import retry as retry_run
from tests.db import scenario
from tests.db.scenario import claim, commit, commit_all, done, failed, load, numbered
from tests.producer.cli.conftest import Shell
from workers.errors import NotOver

FORMATS = ["csv", "coco", "png"]


def three_of_eight(sessions: Sessions) -> int:
    """Of eight images in two chunks two are done, one failed; five are pending."""
    run_id = load(sessions, numbered(8))
    held = claim(sessions, run_id)
    commit(sessions, held, [done(held.images[0], 0.9), done(held.images[1]), failed(held.images[2])])
    return run_id


@pytest.mark.parametrize("format", FORMATS)
def test_a_going_run_is_refused_with_what_there_is_so_far_and_nothing_is_written(shell: Shell, format: str) -> None:
    three_of_eight(shell.sessions)

    error = shell(export, "faces", "--format", format, "-o", "out/faces", code=1).error

    assert error == (
        "sam3: error: run faces is not over: 3 of 8 images so far; wait (sam3-status faces --wait), "
        "or add --partial to export what is there"
    )
    assert list(shell.home.iterdir()) == []


def test_a_paused_run_is_refused_with_the_command_that_lets_it_go_on(shell: Shell) -> None:
    three_of_eight(shell.sessions)
    shell(pause, "faces")

    error = shell(export, "faces", "--format", "csv", "-o", "faces.csv", code=1).error

    assert error == (
        "sam3: error: run faces is not over: 3 of 8 images so far; it is paused by sam3-pause: let it go on "
        "(sam3-resume faces) and wait, or add --partial to export what is there"
    )
    assert shell(resume, "faces").out.startswith("run faces: ")


def test_the_part_that_was_asked_for_is_written_and_called_one(shell: Shell) -> None:
    three_of_eight(shell.sessions)

    told = shell(export, "faces", "--format", "csv", "-o", "faces.csv", "--partial")
    assert told.err == "faces.csv: 8 images, 1 instance; 3 of 8 images so far\n"
    with Path("faces.csv").open(newline="") as file:
        states = [row["sam3_status"] for row in csv.DictReader(file)]
    assert states == ["segmented", "empty", "failed", *["pending"] * 5]

    facts = shell(export, "faces", "--format", "coco", "-o", "faces.json", "--partial", "--json").json
    assert (facts["images"], facts["partial"]) == (2, True)
    assert json.loads(Path("faces.json").read_text())["info"]["partial"] is True


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_that_is_still_loading_is_a_part_too(shell: Shell, format: str) -> None:
    run_id = scenario.create(shell.sessions)
    write(shell.sessions, intake.begin_reading, run_id, 1, 1, ["path"])
    scenario.add(shell.sessions, run_id, numbered(1500))

    error = shell(export, "faces", "--format", format, "-o", "faces", code=1).error
    assert error == (
        "sam3: error: run faces is still loading: 1,500 rows so far; let its sam3-enqueue finish, or run the same one "
        "again if it was killed, or add --partial to export what is there"
    )
    told = shell(export, "faces", "--format", format, "-o", "faces", "--partial")
    assert told.err.endswith("; 1,500 rows so far\n")


def test_a_cancelled_run_is_over_and_says_how_many_images_it_lacks(shell: Shell) -> None:
    run_id = three_of_eight(shell.sessions)
    cancel(shell.sessions, run_id)

    told = shell(export, "faces", "--format", "coco", "-o", "faces.json")

    assert told.err == (
        "faces.json: 2 images, 1 instance; 5 images cancelled before: sam3-retry faces takes them up again\n"
    )
    assert json.loads(Path("faces.json").read_text())["info"]["partial"] is False
    assert shell(retry, "faces", "--json").json["images"] == 6


def test_a_run_that_is_being_deleted_is_not_exported_even_as_a_part(shell: Shell) -> None:
    run_id = three_of_eight(shell.sessions)
    with shell.sessions.begin() as session:
        session.execute(update(Run).where(Run.id == run_id).values(state=RunState.DELETING))

    for given in ((), ("--partial",)):
        assert "being deleted" in shell(export, "faces", "--format", "csv", "-o", "x.csv", *given, code=4).error
    assert list(shell.home.iterdir()) == []


def test_an_export_into_which_a_retry_bursts_leaves_the_file_as_it_was(sessions: Sessions, tmp_path: Path) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    commit(sessions, held, [failed(held.images[0]), *(done(image, 0.9) for image in held.images[1:])])
    out = tmp_path / "out" / "faces.csv"
    out.parent.mkdir()
    view = read(sessions, run_view, run_id)
    assert view is not None
    request = ExportRequest(view, Choice(0.5), out)
    export_csv(request, read_images(sessions, request), lambda count: None)
    last = out.read_bytes()

    def retried(count: int) -> None:
        if count == 1:
            assert retry_run(sessions, run_id, RetryFilter()) == 1

    with pytest.raises(NotOver, match="run faces is not over: 3 of 4 images so far"):
        export_csv(request, read_images(sessions, request), retried)

    assert out.read_bytes() == last
    assert list(out.parent.iterdir()) == [out]
    commit_all(sessions, claim(sessions, run_id), 0.9)
