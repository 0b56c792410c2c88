"""Cancels and deletes that are killed half-way, or come while workers are in the middle of the run."""

import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from db.models import Run
from db.session import Sessions, read
from tests.db import scenario
from tests.integration.faults import farm
from tests.terminals import Terminal, wait_until

IMAGES = 40


@pytest.fixture
def run_id(sessions: Sessions, tmp_path: Path) -> int:
    return farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=8)


def die_half_way(here: Terminal, command: str, *flags: str) -> None:
    """The command, killed after two chunks."""
    dies = {"FAKE_COMMAND_FAILPOINT": "killed_in_a_pass", "FAKE_SLICES": "2"}
    here.run(f"sam3-{command}", "faces", *flags, code=-signal.SIGKILL, **dies)


def states(sessions: Sessions) -> list[str]:
    """Of all runs."""
    return read(sessions, lambda session: list(session.execute(select(Run.state)).scalars()))


def test_a_cancel_that_was_killed_is_shown_and_any_worker_finishes_it(
    here: Terminal, sessions: Sessions, run_id: int
) -> None:
    die_half_way(here, "cancel")
    assert scenario.states(sessions, run_id).count("cancelled") == 16
    assert "cancelling: 24 images still to cancel" in " ".join(here.run("sam3-status", "faces").stdout.split())
    waiting = here.start("sam3-status", "faces", "--wait")
    farm.start(here, "one", "--until-empty").wait()
    waiting.wait(code=None)
    assert (states(sessions), set(scenario.states(sessions, run_id))) == (["cancelled"], {"cancelled"})


def test_a_delete_that_was_killed_is_shown_and_any_worker_finishes_it(
    here: Terminal, sessions: Sessions, run_id: int
) -> None:
    die_half_way(here, "delete", "--yes")
    assert scenario.run(sessions, run_id).images == 24
    assert "deleting: 24 rows still to delete" in " ".join(here.run("sam3-status", "faces").stdout.split())
    farm.start(here, "one", "--until-empty").wait()
    assert states(sessions) == []


def test_a_run_deleted_under_its_workers_ends_in_words_and_they_serve_the_next_one(
    here: Terminal, sessions: Sessions, run_id: int, tmp_path: Path
) -> None:
    worker = farm.start(here, "one", "--num-gpus", "2", slow=0.5)
    farm.some_results(sessions)
    here.run("sam3-delete", "faces", "--yes")
    assert states(sessions) == []
    other = farm.load(sessions, tmp_path / "in", 16, name="next")
    wait_until(lambda: farm.is_over(sessions, other), "the next run")
    farm.check(sessions, other)
    assert " of faces is no longer ours: its run " in farm.end(worker)
