"""sam3-worker and sam3-run as the first process of a container, which `docker stop` ends with SIGTERM."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from PIL import Image as Picture

from db.session import Sessions
from tests.db import scenario
from tests.integration.processes import is_gone, state_of
from tests.terminals import Background, Terminal, wait_until
from tests.workers import runs

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc")
SLOW = {"FAKE_SECONDS_PER_IMAGE": "0.3"}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes process namespaces everywhere"),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]


@pytest.fixture
def container(here: Terminal) -> Terminal:
    """A terminal whose commands are each the first process of a namespace of their own."""
    if subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("no process namespaces here")
    return here.on(CONTAINER)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def below(pid: int) -> list[int]:
    """Everybody that descends from the process, as this side of the namespace counts them."""
    found = children(pid)
    for child in found:
        found += below(child) if not is_gone(child) else []
    return found


def first_process(command: Background) -> int:
    wait_until(lambda: children(command.process.pid), "the first process")
    return children(command.process.pid)[0]


def node_of(first: int) -> int:
    """The Celery parent: a grandchild, since the first process only looks after the command."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid in below(first) if b"workers.node" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return bool(found)

    wait_until(look, "a node")
    return found[0]


def test_a_worker_buries_its_orphans_and_shuts_down_warm(
    container: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path / "in", runs.pictures(tmp_path / "in", 40), chunk_size=20)
    worker = container.start("sam3-worker", "--gpus", "cpu", **SLOW)
    first = first_process(worker)
    wait_until(lambda: runs.results(sessions) >= 2, "a batch")

    node = node_of(first)
    orphans = children(node)
    os.kill(node, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in [node, *orphans]), "their burial")
    before = runs.results(sessions)
    wait_until(lambda: runs.results(sessions) > before, "a commit of the next node")
    assert not [pid for pid in below(first) if state_of(pid) == "Z"]

    os.kill(first, signal.SIGTERM)
    said = worker.wait(code=0)
    assert said.endswith("stopped; what was in hand is committed or back in the queue\n")
    assert "Traceback" not in said
    assert {chunk.state for chunk in scenario.chunks(sessions, run_id)} <= {"pending", "queued", "done"}


def test_a_run_shuts_down_warm_and_the_same_command_goes_on(container: Terminal) -> None:
    photos = container.home / "photos"
    photos.mkdir()
    for number in range(40):
        Picture.new("RGB", (80, 60), "white").save(photos / f"{number:02}.png")
    command = ("sam3-run", "photos", "--prompt", "square", "--model", "tiny", "--gpus", "cpu", "-o", "out")
    running = container.start(*command, **SLOW)
    first = first_process(running)
    wait_until(lambda: masks_of(container), "the first masks")
    os.kill(first, signal.SIGTERM)
    said = running.wait(code=128 + signal.SIGTERM)
    assert said.endswith("Next: the same command again goes on from here\n")
    assert "Traceback" not in said

    status = container.json("sam3-status", "out")
    assert 0 < status["images"]["segmented"] < 40
    assert status["chunks"]["running"] == 0
    assert "40 segmented" in container.run(*command).stdout


def masks_of(here: Terminal) -> list[Path]:
    return list((here.home / "out").rglob("*.png"))
