"""Signals while commands work: their exit codes, what they leave behind, and that the same command goes on."""

import os
import signal
from pathlib import Path

import pytest

from db.session import Sessions, connect, read, sqlite_url
from tests.db import scenario
from tests.db.recount import differences
from tests.integration.faults.farm import busy_child, descendants
from tests.integration.processes import is_gone
from tests.terminals import Background, Terminal, wait_until
from tests.workers import runs

SLOW = {"FAKE_SECONDS_PER_IMAGE": "0.5"}
RUN = ("sam3-run", "photos", "--prompt", "person", "--model", "any/model", "--gpus", "cpu", "-o", "out")
STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture
def photos(terminal: Terminal) -> Terminal:
    """A terminal beside a folder of two images, one batch; state is in the output folder."""
    del terminal.environment["SAM3_STATE_DIR"]
    runs.pictures(terminal.home / "photos", 2)
    return terminal


def sessions_of_run(here: Terminal) -> Sessions:
    return connect(sqlite_url(here.home / "out" / ".sam3" / "sam3.db"))


def in_hand(here: Terminal) -> int:
    """The process that has the run's only chunk in hand, once there is one."""
    wait_until((here.home / "out" / "run.yaml").exists, "the recorded run")
    return busy_child(sessions_of_run(here))


def all_gone(pids: list[int]) -> bool:
    return all(map(is_gone, pids))


def ends_and_goes_on(here: Terminal, running: Background, started: list[int]) -> None:
    """The run ended by Ctrl-C leaves nothing behind, and the same command completes it."""
    said = running.wait(code=130)
    assert said.splitlines()[-1] == "Next: the same command again goes on from here"
    assert "Traceback" not in said
    wait_until(lambda: all_gone(started), "the end of all that it started")
    assert not (here.home / "out" / "results.csv").exists()
    assert "2 segmented, 0 empty; 2 instances" in here.run(*RUN).stdout
    assert len(list((here.home / "out" / "masks").rglob("*.png"))) == 2
    assert not [path for path in here.home.rglob("*") if path.suffix == ".part"]
    assert read(sessions_of_run(here), differences) == []


def test_ctrl_c_with_the_last_batch_in_hand_commits_it_and_leaves_the_files_to_the_same_command(
    photos: Terminal,
) -> None:
    running = photos.start(*RUN, **SLOW)
    in_hand(photos)
    started = descendants(running.process.pid)
    running.interrupt()
    ends_and_goes_on(photos, running, started)
    assert "photos: 2/2 images (100 %)" in running.output()


def test_a_second_ctrl_c_ends_a_run_at_once_and_the_same_command_takes_its_batch_up_again(photos: Terminal) -> None:
    running = photos.start(*RUN, "--grace", "1000", **SLOW)
    os.kill(in_hand(photos), signal.SIGSTOP)  # so that the batch does not end by itself
    started = descendants(running.process.pid)
    running.interrupt()
    wait_until(lambda: "once more to stop at once" in running.output(), "the first Ctrl-C to be heard")
    running.interrupt()
    ends_and_goes_on(photos, running, started)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_whose_terminal_is_closed_commits_what_is_in_hand_and_gives_the_rest_back(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM have tests in `faults/test_workers.py`."""
    run_id = runs.load(sessions, tmp_path / "in", runs.pictures(tmp_path / "in", 20), chunk_size=20)
    worker = here.start("sam3-worker", "--gpus", "cpu", **SLOW)
    busy_child(sessions)
    started = descendants(worker.process.pid)
    os.killpg(worker.process.pid, signal.SIGHUP)
    assert worker.wait(code=129).endswith("stopped; what was in hand is committed or back in the queue\n")
    wait_until(lambda: all_gone(started), "the end of all that it started")
    [chunk] = scenario.chunks(sessions, run_id)
    assert (chunk.state in ("pending", "queued"), chunk.attempts, chunk.crashes) == (True, 0, 0)
    assert 0 < runs.results(sessions) < 20


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_watched_status_ends_with_the_line_that_it_has_shown(
    here: Terminal, sessions: Sessions, number: signal.Signals, code: int
) -> None:
    scenario.load(sessions, scenario.numbered(3))
    watching = here.start("sam3-status", "faces", "--watch")
    wait_until(watching.output, "the first line")
    os.killpg(watching.process.pid, number)
    said = watching.wait(code=code).rstrip()
    assert said == "faces: 0/3 images (0 %), no worker is running: start sam3-worker"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 129)])
def test_a_broker_that_is_told_to_end_says_so_and_takes_its_server_along(
    terminal: Terminal, number: signal.Signals, code: int
) -> None:
    from workers.fleet.valkey import free_port, listens

    port = free_port()
    broker = terminal.start("sam3-broker", "--port", str(port))
    wait_until(lambda: "Next:" in broker.output(), "the broker")
    os.killpg(broker.process.pid, number)
    assert broker.wait(code=code).rstrip().endswith("\nstopped")
    assert not listens(port)
