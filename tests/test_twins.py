"""Nodes that twins fork are what the real ones are, as far as the kernel can tell."""

import os
import re
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.models import Worker
from db.session import Sessions, reading
from tests import twins
from tests.integration.faults import farm
from tests.integration.processes import is_gone, parent_of
from tests.terminals import Background, Terminal, wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BELOW_GLIBC = (1 << 31) - 1  # signals 32 and 33 are glibc's own, which hears them once there was a thread


@pytest.fixture
def here(terminal: Terminal, database_url: str, broker_url: str) -> Terminal:
    terminal.environment |= {"SAM3_DATABASE_URL": database_url, "SAM3_BROKER_URL": broker_url}
    return terminal


def family(worker: Background, sessions: Sessions) -> list[int]:
    """The node of a command, the process that works in it, and what removes its semaphores."""
    found: list[int] = []

    def look() -> bool:
        with reading(sessions) as session:
            works = session.execute(select(Worker.pid)).scalars().all()
        below = farm.descendants(worker.process.pid)
        found[:] = sorted(below, key=lambda pid: (parent_of(pid) != worker.process.pid, pid not in works))
        return any(pid in works for pid in below)

    wait_until(look, "a worker")
    return found


def seen(pid: int) -> dict[str, Any]:
    """What the kernel says of a process."""
    place = Path(f"/proc/{pid}")
    opened = [os.readlink(place / "fd" / number) for number in os.listdir(place / "fd")]
    status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines() if ":\t" in line)
    return {
        "folder": Path(os.readlink(place / "cwd")).name,
        "leads": (os.getpgid(pid) == pid, os.getsid(pid) == pid),
        "follows": (os.getpgid(pid) == parent_of(pid), os.getsid(pid) == parent_of(pid)),
        "signals": {name: int(status[name], 16) & BELOW_GLIBC for name in ("SigBlk", "SigIgn", "SigCgt")},
        "mask": status["Umask"],
        "opened": sorted(re.sub(r"pym.*|[0-9]+", "", one) for one in opened),
    }


def test_a_forked_node_has_the_folder_session_signals_and_descriptors_of_a_real_one(
    here: Terminal, sessions: Sessions
) -> None:
    as_user = copy(here)
    as_user.forerunner = None
    forked, real = (
        family(farm.start(terminal, name), sessions) for terminal, name in ((here, "one"), (as_user, "two"))
    )
    assert [len(forked), len(real)] == [3, 3]
    assert b"quick_start" in Path(f"/proc/{forked[0]}/cmdline").read_bytes()
    assert b"quick_start" not in Path(f"/proc/{real[0]}/cmdline").read_bytes()

    def alike() -> bool:
        ours = [seen(pid) for pid in forked]
        ours[0]["opened"].remove("socket:[]")  # to the node's own twin
        return ours == [seen(pid) for pid in real]

    wait_until(alike, "both to wait for work", seconds=60)


def test_twins_end_with_their_command_however_that_ends(here: Terminal, sessions: Sessions) -> None:
    worker = farm.start(here)
    node = family(worker, sessions)[0]
    found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_twin(int(pid), worker.process.pid, node)]
    assert len(found) == 2
    worker.process.kill()
    wait_until(lambda: all(is_gone(pid) for pid in (node, *found)), "the end of everybody")


def _is_twin(pid: int, *parents: int) -> bool:
    try:
        return parent_of(pid) in parents and Path(f"/proc/{pid}/comm").read_text().strip() == twins.NAME
    except OSError:
        return False
