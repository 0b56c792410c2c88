"""The heartbeat: it keeps a lease as long as the work gets on, and notices what is over."""

import time

import pytest
from sqlalchemy import update

from db import claims
from db.claims import LeaseLost, ModelUsed, agree_on_model
from db.models import Run
from db.session import Sessions, write
from tests.db import scenario
from tests.fakes import Clock
from tests.terminals import wait_until
from tests.workers import runs
from tests.workers.node.conftest import Start, claimed, declined

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("change", ["deleted", "over", "corrected"])
def test_a_worker_says_no_longer_that_it_declines_a_run_that_was(start: Start, sessions: Sessions, change: str) -> None:
    run_id = scenario.load(sessions, scenario.numbered(1))
    write(sessions, agree_on_model, run_id, ModelUsed(None, "f" * 64, "bf16"))
    node = start(heartbeat_seconds=0.1)
    declined(node, sessions, run_id)
    time.sleep(0.5)  # some heartbeats
    assert runs.reported(sessions).state == "declined"
    if change == "deleted":
        scenario.delete(sessions, run_id)
    elif change == "over":
        scenario.cancel(sessions, run_id)
    else:
        with sessions.begin() as session:
            session.execute(update(Run).values(weights_sha256=None))
    if change != "corrected":  # at once: nobody else is asked
        line = runs.reported(sessions)
        assert (line.state, line.run, line.message) == ("idle", None, None)
    wait_until(lambda: node.worker.activity.doing.state == "idle", "the next heartbeat")
    wait_until(lambda: runs.reported(sessions).message is None, "the next heartbeat")


def renewed(sessions: Sessions) -> None:
    """Wait until the lease of the only chunk ends later than now."""
    [held] = scenario.running(sessions)
    before = scenario.chunk(sessions, held.chunk_id).lease_until
    assert before is not None
    wait_until(lambda: (scenario.chunk(sessions, held.chunk_id).lease_until or 0) > before, "the heartbeat")


def test_the_heartbeat_renews_the_lease_of_a_claim_again_and_again(start: Start, sessions: Sessions) -> None:
    node = start(heartbeat_seconds=0.1, lease_seconds=60)
    chunk = claimed(node, sessions, scenario.numbered(4))
    for _ in range(3):
        renewed(sessions)
    assert [chunk.lease_over for chunk in scenario.running(sessions)] == [False]
    assert chunk.commit([scenario.done(image, 0.9) for image in chunk.images])


@pytest.mark.parametrize("taken", [True, False])
def test_a_worker_that_stands_still_lets_its_lease_run_out_and_loses_it_to_whoever_takes_it(
    start: Start, sessions: Sessions, taken: bool
) -> None:
    node = start(heartbeat_seconds=0.1, lease_seconds=0.5, stall_seconds=0.3)
    chunk = claimed(node, sessions, scenario.numbered(4))
    wait_until(lambda: [chunk.lease_over for chunk in scenario.running(sessions)] == [True], "the end of the lease")
    ended = [scenario.done(image, 0.9) for image in chunk.images]
    if not taken:  # as after a database that was away for longer than the lease
        chunk.begin_range(1, 4)
        assert chunk.commit(ended)
        return
    [held] = scenario.running(sessions)
    assert write(sessions, claims.take_back, held, crashed=False)
    with pytest.raises(LeaseLost):
        chunk.begin_range(1, 4)
    with pytest.raises(LeaseLost):
        chunk.commit(ended)


def test_progress_keeps_the_lease_however_long_the_chunk_takes(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("workers.node.activity.time", clock)
    node = start(heartbeat_seconds=0.1, lease_seconds=60, stall_seconds=15)
    chunk = claimed(node, sessions, scenario.numbered(4))
    for _ in range(4):
        clock.move(10)
        node.worker.activity.progressed()
        renewed(sessions)
    assert chunk.commit([scenario.done(image, 0.9) for image in chunk.images])


def test_a_claim_that_somebody_else_has_by_now_is_noticed_by_the_heartbeat(start: Start, sessions: Sessions) -> None:
    node = start(heartbeat_seconds=0.1, lease_seconds=100)
    chunk = claimed(node, sessions, scenario.numbered(4))
    assert not chunk.stopped()
    wait_until(lambda: scenario.take_back(sessions, chunk._held), "a moment between two heartbeats")
    wait_until(lambda: chunk.stopped(), "the heartbeat")
    assert chunk.is_lost
    assert not node.draining.is_set()
