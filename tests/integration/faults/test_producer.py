"""A producer that dies, comes twice, or whose operator changes his mind in the middle."""

import os
import signal
import threading
from pathlib import Path

import pytest
from PIL import Image as Picture
from sqlalchemy import select

from db.models import Image, Run
from db.session import Sessions, read
from tests.db import scenario
from tests.integration.faults import farm
from tests.terminals import PATIENCE, Terminal, wait_until

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def table(here: Terminal) -> Path:
    """A CSV of 40 images."""
    for row in range(1, 41):
        Picture.new("RGB", (32, 24), "white").save(here.home / f"{row:04}.png")
    table = here.home / "faces.csv"
    table.write_text("path\n" + "".join(f"{row:04}.png\n" for row in range(1, 41)))
    return table


def enqueue(here: Terminal, table: Path, code: int = 0, **environment: str) -> None:
    flags = ("--csv", str(table), "--prompt", "person", "--chunk-size", "8", "--no-check")
    here.run("sam3-enqueue", *flags, code=code, **environment)


def enqueue_and_die(here: Terminal, failpoint: str, table: Path, **environment: str) -> None:
    """sam3-enqueue, killed at one exact point."""
    enqueue(here, table, code=-signal.SIGKILL, FAKE_COMMAND_FAILPOINT=failpoint, **environment)


def run_id_of(sessions: Sessions) -> int:
    return read(sessions, lambda session: session.execute(select(Run.id)).scalar_one())


@pytest.mark.parametrize("slices", [0, 1, 3])
def test_a_load_that_was_killed_goes_on_with_the_same_command(
    here: Terminal, sessions: Sessions, tmp_path: Path, slices: int
) -> None:
    table = tmp_path / "many.csv"
    table.write_text("path\n" + "".join(f"{row}.png\n" for row in range(4500)))
    enqueue_and_die(here, "killed_after_so_many_slices", table, FAKE_SLICES=str(slices))
    assert scenario.run(sessions, run_id_of(sessions)).state == "loading"
    enqueue(here, table)
    rows = read(sessions, lambda session: session.execute(select(Image.row, Image.path).order_by(Image.row)).all())
    assert [tuple(row) for row in rows] == [(row + 1, f"{row}.png") for row in range(4500)]
    assert scenario.run(sessions, run_id_of(sessions)).state == "active"


@on_sqlite
def test_chunks_whose_doorbells_were_never_rung_are_rung_by_the_worker(
    here: Terminal, sessions: Sessions, table: Path
) -> None:
    enqueue_and_die(here, "killed_between_commit_and_publish", table)
    assert "queued" in {chunk.state for chunk in scenario.chunks(sessions, run_id_of(sessions))}
    farm.start(here, "one", "--until-empty").wait()
    farm.check(sessions, run_id_of(sessions))


def test_the_same_enqueue_twice_at_once_makes_one_run(here: Terminal, sessions: Sessions, tmp_path: Path) -> None:
    table = tmp_path / "many.csv"
    table.write_text("path\n" + "".join(f"{row}.png\n" for row in range(4500)))
    flags = ("--csv", str(table), "--prompt", "person", "--no-check")  # no image is there
    both = [here.start("sam3-enqueue", *flags) for _ in range(2)]
    for one in both:
        one.wait(code=None)
    said = "".join(one.output() for one in both)
    assert "Traceback" not in said
    here.run("sam3-enqueue", *flags)  # whoever was refused is told to come again
    rows = read(sessions, lambda session: session.execute(select(Image.row).order_by(Image.row)).scalars().all())
    assert rows == list(range(1, 4501))


def test_a_run_cancelled_in_the_middle_stops_where_it_is(here: Terminal, sessions: Sessions, table: Path) -> None:
    enqueue(here, table)
    worker = farm.start(here, "one", "--num-gpus", "2", slow=0.5)
    farm.some_results(sessions)
    here.run("sam3-cancel", "faces")
    run_id = run_id_of(sessions)
    states = scenario.states(sessions, run_id)
    assert scenario.run(sessions, run_id).state == "cancelled"
    assert set(states) == {"done", "cancelled"}
    farm.end(worker)
    assert scenario.states(sessions, run_id) == states
    verdict = read(sessions, farm.judge, run_id)
    assert (verdict.lost, verdict.duplicated, verdict.unexpected) == (0, 0, 0)


def test_cancel_and_retry_at_once_leave_no_half_state(here: Terminal, sessions: Sessions, table: Path) -> None:
    """Whoever comes last wins, if it is not refused; after one more retry everything is done."""
    enqueue(here, table)
    worker = farm.start(here, "one", "--num-gpus", "2", slow=0.05)
    farm.some_results(sessions)
    done: list[int] = []

    def ask(command: str) -> None:
        for _ in range(2):
            done.append(here.start(command, "faces").process.wait(PATIENCE))

    threads = [threading.Thread(target=ask, args=(command,)) for command in ("sam3-cancel", "sam3-retry")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(done) <= {0, 2}  # a retry while a cancel is on its way
    here.run("sam3-retry", "faces")
    run_id = run_id_of(sessions)
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    farm.end(worker)


@on_sqlite
def test_a_worker_killed_while_its_run_is_cancelled_leaves_nothing_alive(
    here: Terminal, sessions: Sessions, table: Path
) -> None:
    """The reconciler and the operator meet at the same chunk."""
    enqueue(here, table)
    worker = farm.start(here, "one", slow=0.2)
    os.kill(farm.busy_child(sessions), signal.SIGKILL)
    here.run("sam3-cancel", "faces")
    run_id = run_id_of(sessions)
    wait_until(lambda: "pending" not in scenario.states(sessions, run_id), "the last of them")
    assert {chunk.state for chunk in scenario.chunks(sessions, run_id)} <= {"cancelled", "done"}
    worker.interrupt()
    worker.wait(code=130)
