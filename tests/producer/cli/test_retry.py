"""`sam3-retry` as it is typed."""

import pytest

from producer.cli.retry import main as retry
from producer.runs.operate import cancel
from tests.db import scenario
from tests.db.scenario import claim, commit, failed, load, numbered
from tests.producer.cli.conftest import Shell
from tests.workers import runs
from workers.broker.connection import Doorbells
from workers.settings import load_settings


def all_failed(shell: Shell) -> int:
    """Two chunks, one of missing and one of truncated images."""
    run_id = load(shell.sessions, numbered(8))
    for reason in ("missing", "truncated"):
        held = claim(shell.sessions, run_id)
        commit(shell.sessions, held, [failed(image, reason) for image in held.images])
    return run_id


@pytest.mark.usefixtures("broker")
def test_failed_images_are_pending_again_and_their_chunks_are_rung(shell: Shell) -> None:
    run_id = all_failed(shell)

    told = shell(retry, "faces")

    assert (told.out, told.err) == ("run faces: 8 images to try again\n", "Next: sam3-status faces --watch\n")
    assert scenario.states(shell.sessions, run_id) == ["pending"] * 8
    assert Doorbells(runs.app(shell.sessions, load_settings().broker_url)).chunks() == {3, 4}


@pytest.mark.usefixtures("broker")
def test_one_error_class_or_one_chunk_can_be_chosen(shell: Shell) -> None:
    all_failed(shell)

    assert shell(retry, "faces", "--error-class", "missing", "--json").json == {
        "schema": 1,
        "run": "faces",
        "images": 4,
        "queued": 1,
        "adding": 0,
    }
    assert shell(retry, "faces", "--chunk", 2).out == "run faces: 4 images to try again\n"
    nothing = shell(retry, "faces", "--chunk", 2)
    assert (nothing.out, nothing.err) == ("run faces: 0 images to try again\n", "nothing had failed that way\n")


def test_without_a_broker_the_images_are_pending_all_the_same(shell: Shell) -> None:
    run_id = all_failed(shell)

    told = shell(retry, "faces", "--json")

    assert (told.json["images"], told.json["queued"]) == (8, 0)
    assert told.err.startswith("warning: cannot reach the broker redis://localhost:1/0")
    assert told.err.endswith("; the images are pending, and workers take them when it is back\n")
    assert scenario.run(shell.sessions, run_id).state == "active"


@pytest.mark.usefixtures("broker")
def test_a_cancelled_run_is_taken_up_again(shell: Shell) -> None:
    run_id = load(shell.sessions, numbered(8))
    cancel(shell.sessions, run_id)

    assert shell(retry, "faces").out == "run faces: 8 images to try again\n"


@pytest.mark.parametrize(
    ("given", "code", "fault"),
    [
        (("nope",), 4, "no run called nope; there are: faces"),
        (("faces", "--error-class", "bad_row"), 2, "'bad_row' is not one of 'missing', 'permission', "),
        (("faces", "--chunk", "0"), 2, "'--chunk': 0 is not in the range x>=1"),
        ((), 2, "Missing argument 'RUN'"),
    ],
)
def test_what_cannot_be_retried_is_one_line(shell: Shell, given: tuple[str, ...], code: int, fault: str) -> None:
    all_failed(shell)

    assert fault in shell(retry, *given, code=code).error
