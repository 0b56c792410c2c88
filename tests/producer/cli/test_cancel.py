"""`sam3-cancel` as it is typed."""

from db.values import Redo
from producer.cli.cancel import main as cancel
from producer.runs.redo import redo
from tests.db import scenario
from tests.db.scenario import claim, load, numbered
from tests.producer.cli.conftest import Shell


def test_what_is_pending_is_cancelled_and_the_way_back_is_told(shell: Shell) -> None:
    run_id = load(shell.sessions, numbered(8))
    scenario.commit_all(shell.sessions, claim(shell.sessions, run_id), 0.9)

    told = shell(cancel, "faces")

    assert told.out == "run faces: 4 images cancelled\n"
    assert told.err == "Next: sam3-retry faces takes them up again; sam3-delete faces forgets the run\n"
    assert scenario.states(shell.sessions, run_id) == ["done"] * 4 + ["cancelled"] * 4


def test_a_run_that_is_over_has_nothing_to_cancel(shell: Shell) -> None:
    run_id = load(shell.sessions, numbered(4))
    scenario.work_off(shell.sessions, run_id, 0.9)

    told = shell(cancel, "faces")

    assert (told.out, told.err) == ("run faces: 0 images cancelled\n", "nothing was pending\n")
    assert shell(cancel, "faces", "--json").json == {"schema": 1, "run": "faces", "cancelled": 0}


def test_images_that_were_to_be_computed_again_are_told_to_keep_their_results(shell: Shell) -> None:
    run_id = load(shell.sessions, numbered(4))
    scenario.work_off(shell.sessions, run_id, 0.9)
    redo(shell.sessions, run_id, Redo.ALL)

    told = shell(cancel, "faces")

    kept = "4 images that waited or were in hand keep their results\n"
    assert (told.out, told.err) == ("run faces: 0 images cancelled\n", kept)


def test_an_unknown_run_ends_with_4(shell: Shell) -> None:
    assert shell(cancel, "nope", code=4).error.startswith("sam3: error: no run called nope; ")
