"""Two databases on one broker, as two people on one machine have by default: neither takes the other's doorbells."""

from pathlib import Path

import pytest

from db.migrate import upgrade
from db.session import Sessions, connect
from tests.db import scenario
from tests.integration.faults import farm
from tests.terminals import Terminal, wait_until
from tests.workers import runs

pytestmark = pytest.mark.usefixtures("nobody_dies")


def test_an_idle_worker_of_another_database_takes_no_doorbell(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = farm.load(sessions, tmp_path / "pictures", 40, chunk_size=1)
    others_url = f"sqlite:///{tmp_path / 'other.db'}"
    others = connect(others_url)
    upgrade(others)
    idle = farm.start(here, "other", SAM3_DATABASE_URL=others_url)
    wait_until(lambda: "batches of" in idle.output(), "the idle worker")

    worker = farm.start(here, "one", slow=0.0)
    farm.finish(sessions, run_id)

    farm.check(sessions, run_id)
    # One doorbell each: none was taken by the idle worker, missed and rung again.
    assert {chunk.ring for chunk in scenario.chunks(sessions, run_id)} == {1}
    assert runs.queue(sessions) != runs.queue(others)
    for one in (worker, idle):
        assert "dropped" not in farm.end(one)
    others.kw["bind"].dispose()
