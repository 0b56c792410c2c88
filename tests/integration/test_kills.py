"""kill -9 of single processes, and SIGTERM: the work goes on by itself, and nobody is left over.

No process of these tests is a fork of them.
"""

import os
import signal
from pathlib import Path

import pytest
import redis
from sqlalchemy import select

from db.models import Worker
from db.session import Sessions, reading
from tests.db import scenario
from tests.integration.processes import is_gone, parent_of
from tests.terminals import Background, Terminal, wait_until
from tests.workers import runs

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("real_programs"),
]


@pytest.fixture
def run_id(sessions: Sessions, tmp_path: Path) -> int:
    """Sixty images, seconds of work."""
    folder = tmp_path / "pictures"
    return runs.load(sessions, folder, runs.pictures(folder, 60), chunk_size=20)


def busy_child(sessions: Sessions, other_than: int = 0) -> int:
    """The process that works on a chunk, once there is one."""
    found: list[int] = []

    def look() -> bool:
        with reading(sessions) as session:
            pids = session.execute(select(Worker.pid).where(Worker.state == "running").order_by(Worker.id.desc()))
            found[:] = [pid for pid in pids.scalars() if pid != other_than]
        return bool(found)

    wait_until(look, "a worker with a chunk")
    return found[0]


def more_results(sessions: Sessions) -> None:
    """Wait until somebody commits."""
    before = runs.results(sessions)
    wait_until(lambda: runs.results(sessions) > before, "a commit")


def start(here: Terminal, *flags: str, seconds_per_image: float = 0.15) -> Background:
    return here.start("sam3-worker", "--gpus", "cpu", *flags, FAKE_SECONDS_PER_IMAGE=str(seconds_per_image))


@pytest.mark.long
def test_a_killed_child_and_then_a_killed_celery_parent_hold_nothing_up(
    here: Terminal, sessions: Sessions, run_id: int
) -> None:
    worker = start(here, "--until-empty")
    more_results(sessions)

    first = busy_child(sessions)
    parent = parent_of(first)
    os.kill(first, signal.SIGKILL)
    second = busy_child(sessions, other_than=first)
    assert parent_of(second) == parent  # Celery started a new child
    more_results(sessions)

    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: is_gone(second), "the end of the orphan")
    third = busy_child(sessions, other_than=second)
    assert parent_of(third) != parent  # the launcher started a new node

    said = worker.wait()
    assert "cpu0 ended (signal 9); starting it again" in said
    assert "nothing left to do" in said
    assert runs.results(sessions) == 60
    assert scenario.run(sessions, run_id).state == "done"
    assert sum(chunk.fence for chunk in scenario.chunks(sessions, run_id)) <= 3 + 2
    assert all(chunk.crashes == 0 for chunk in scenario.chunks(sessions, run_id))  # commits came after the crashes


def test_nodes_and_their_children_die_with_a_killed_launcher(here: Terminal, sessions: Sessions, run_id: int) -> None:
    worker = start(here, seconds_per_image=1.0)  # a chunk would take twenty seconds
    child = busy_child(sessions)
    parent = parent_of(child)
    worker.process.kill()
    worker.process.wait()
    for pid in (parent, child):
        wait_until(lambda pid=pid: is_gone(pid), "the end of the node")  # type: ignore[misc]


@pytest.mark.long
def test_a_terminated_worker_gives_its_chunk_back_within_seconds_also_when_its_broker_is_gone(
    here: Terminal, sessions: Sessions, run_id: int, broker_url: str
) -> None:
    worker = start(here)
    more_results(sessions)
    with redis.Redis.from_url(broker_url) as client:
        client.shutdown(nosave=True)
    more_results(sessions)  # a broker is not needed to finish what is in hand
    worker.process.terminate()
    worker.wait(seconds=40)
    assert "running" not in {chunk.state for chunk in scenario.chunks(sessions, run_id)}
    assert {chunk.crashes for chunk in scenario.chunks(sessions, run_id)} == {0}
