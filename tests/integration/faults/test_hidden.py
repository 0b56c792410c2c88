"""Workers of two users on one machine whose /proc shows nobody the processes of others: who lives is left alone."""

from pathlib import Path

import pytest

from db import named_leases
from db.session import Sessions, read
from tests.db import scenario
from tests.integration.faults import farm
from tests.integration.hidden import another_user
from tests.terminals import Terminal, wait_until
from workers.fleet.reconcile import LEASE


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_that_the_reconciler_may_not_see_keeps_its_chunks(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """Each batch takes longer than several of the other user's looks."""
    here.environment |= {"SAM3_LEASE_SECONDS": "30", "SAM3_STALL_SECONDS": "60"}
    hidden = here.on(another_user())
    run_id = farm.load(sessions, tmp_path / "in", 24, chunk_size=4)
    leader = farm.start(hidden, "theirs", slow=0.5)
    wait_until(lambda: read(sessions, named_leases.lease_holder, LEASE), "the other user's reconciler")
    ours = farm.start(here, "ours", slow=0.5)
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}
    owners = {chunk.owner_id for chunk in scenario.chunks(sessions, run_id)}
    assert len(owners) == 2
    for worker in (ours, leader):
        worker.interrupt()
        worker.wait(code=130)
