"""A mount that is lost pauses its runs and fails no image; what is simulated is the mount: a folder renamed away."""

from pathlib import Path

import pytest

from db.session import Sessions
from tests.db import scenario
from tests.integration.faults import farm
from tests.terminals import Terminal, wait_until

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("nobody_dies"),
]

IMAGES, CHUNK, READ = 40, 16, 8


def test_a_mount_lost_between_two_batches_pauses_the_run_until_it_is_back(
    here: Terminal, sessions: Sessions, tmp_path: Path, failing_attempts: set[str]
) -> None:
    """The second batch is the last that was read. It comes back while the node rests after its third fault.

    The last image is missing anyway: it alone fails.
    """
    failing_attempts.add("Infrastructure")
    mount, away = tmp_path / "in", tmp_path / "away"
    run_id = farm.load(sessions, mount, IMAGES, chunk_size=CHUNK)
    (mount / f"{IMAGES:04}.png").unlink()
    here.environment |= {"FAKE_MOUNT": str(mount), "FAKE_FIRST_LOST": f"{READ + 1:04}.png"}
    worker = farm.start(here, FAKE_FAILPOINT="mount_lost_between_two_batches")
    wait_until(lambda: "repeated faults, told above" in worker.output(), "the breaker")
    assert f"{mount}/0001.png was read before and is gone (No such file or directory): is a mount lost?" in (
        worker.output()
    )
    assert scenario.states(sessions, run_id) == ["done"] * READ + ["pending"] * (IMAGES - READ)
    assert scenario.run(sessions, run_id).state == "active"
    assert {chunk.attempts for chunk in scenario.chunks(sessions, run_id)} == {0}
    away.rename(mount)
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id, failed={IMAGES: "missing"})
    assert farm.forwards(here) == IMAGES - 1 + 2  # nothing twice, but for the self-test of the node that began anew
    worker.interrupt()
    worker.wait(code=130)
