"""A run that no worker can serve, and what is put in its place: workers that go on notice by themselves."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from db.models import Run, Worker
from db.session import Sessions, read, write
from tests.db import scenario
from tests.integration.faults import farm
from tests.terminals import Terminal, wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def worker_lines(here: Terminal, run: str = "faces", code: int = 0) -> list[Any]:
    lines = here.json("sam3-status", run, code=code)["workers"]
    assert isinstance(lines, list)
    return lines


def test_a_declined_run_that_is_deleted_and_enqueued_anew_is_served_without_a_restart(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """On SQLite the new run could have got the old one's number."""
    first = scenario.load(sessions, scenario.numbered(2), prompts=("a " * 40,))
    worker = farm.start(here, "one")
    refused = "too many words"  # asked at once: the next doorbell takes the message away for a moment
    wait_until(lambda: any(refused in (line["message"] or "") for line in worker_lines(here)), "the refusal")
    here.run("sam3-delete", "faces", "--yes")
    second = farm.load(sessions, tmp_path / "in", 8, chunk_size=4)
    assert second != first
    assert [line for line in worker_lines(here) if line["state"] == "declined"] == []
    farm.finish(sessions, second)
    farm.check(sessions, second)
    assert len(read(sessions, lambda session: session.query(Worker).all())) == 1
    farm.end(worker)


def test_a_worker_that_declines_a_run_keeps_no_doorbell_from_those_that_serve_it(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """One that has other weights and nothing else to do; a doorbell that is missed is not rung again in this test."""
    here.environment["SAM3_ABSENT_SECONDS"] = "3600"
    run_id = farm.load(sessions, tmp_path / "in", 24, chunk_size=4)
    write(sessions, freeze_model, run_id)
    other = farm.start(here, "two", SAM3_SEGMENTER="tests.fakes:other_weights")
    wait_until(lambda: "declined" in [line["state"] for line in worker_lines(here)], "the refusal")
    good = farm.start(here, "one", slow=0.1)
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    farm.end(good)
    farm.end(other)


def freeze_model(session: Session, run_id: int) -> None:
    """As a worker with a `FaultySegmenter` does that begins the run."""
    run = session.get_one(Run, run_id)
    run.weights_sha256, run.dtype = "0" * 64, "fp32"


def test_a_run_whose_model_folder_is_put_right_is_served_without_a_restart(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    here.environment["SAM3_SEGMENTER"] = "tests.fakes:needs_a_folder"
    run_id = farm.load(sessions, tmp_path / "in", 8, chunk_size=4)
    write(sessions, lambda session: setattr(session.query(Run).one(), "model", str(tmp_path / "model")))
    other = farm.load(sessions, tmp_path / "in", 4, chunk_size=4, name="other")  # so that its node need not end
    worker = farm.start(here, "one")
    farm.finish(sessions, other)
    wait_until(lambda: [line["state"] for line in worker_lines(here)] == ["declined"], "the refusal")
    (tmp_path / "model").mkdir()
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    farm.end(worker)
