"""One process as a worker: its row, also when that was cleared away."""

import pytest
from sqlalchemy import delete

from db.models import Worker as WorkerRow
from db.session import Sessions
from tests.db import scenario
from tests.terminals import wait_until
from tests.workers import runs
from tests.workers.node.conftest import Start, claimed
from workers.fleet.processes import this_process
from workers.node.node import Node

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_worker_introduces_itself_by_slot_and_host(start: Start, sessions: Sessions) -> None:
    start(node="gpu3")
    line = runs.reported(sessions)
    assert (line.node, line.state) == (f"gpu3@{this_process().host}", "idle")


def forgotten(sessions: Sessions, node: Node) -> int:
    """The worker's process stands still for 25 hours, and somebody clears up meanwhile; its id until then."""
    before = node.worker.id
    with sessions.begin() as session:
        session.execute(delete(WorkerRow).where(WorkerRow.id == before))
    return before


def test_a_worker_that_was_forgotten_while_it_stood_still_registers_itself_anew(
    start: Start, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    node = start(heartbeat_seconds=0.1)
    before = forgotten(sessions, node)
    wait_until(lambda: "this worker was forgotten" in caplog.text, "its new row")  # the last thing that it does
    assert node.worker.id != before
    assert runs.reported(sessions).state == "idle"
    assert caplog.text.count("this worker was forgotten") == 1


def test_a_forgotten_worker_keeps_the_chunk_that_it_holds(start: Start, sessions: Sessions) -> None:
    node = start()
    before = forgotten(sessions, node)
    chunk = claimed(node, sessions, scenario.numbered(4))  # which notices, like every report
    assert node.worker.id != before
    assert [held.owner_id for held in scenario.running(sessions)] == [node.worker.id]
    assert runs.reported(sessions).state == "running"
    assert chunk.commit([scenario.done(image, 0.9) for image in chunk.images])
