"""Who this process is, whether another one still lives, and how to start one that dies with us; knows no work."""

import os
import socket
import sys
from pathlib import Path

from db import presence
from db.presence import Process
from db.session import Sessions, reading, write


def this_process() -> Process:
    """The identity of the calling process; unknown parts are empty or 0 where /proc does not exist."""
    return Process(socket.gethostname(), _boot(), os.getpid(), _start_time(os.getpid()) or 0)


def is_dead(process: Process) -> bool:
    """True only if the process ran in this start of this machine and is certainly gone."""
    me = this_process()
    if not me.boot or (process.host, process.boot) != (me.host, me.boot):
        return False
    return _start_time(process.pid) != process.started


def take_lease(sessions: Sessions, name: str, me: Process, seconds: float) -> bool:
    """Take or renew a named lease; a holder that died on this machine is not waited for."""
    with reading(sessions) as session:
        holder = presence.lease_holder(session, name)
    dead = holder if holder is not None and is_dead(holder) else None
    return write(sessions, presence.acquire_lease, name, me, seconds, dead=dead)


def _boot() -> str:
    """This start of the machine, and the process namespace: in another container the same numbers mean others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """Ticks from the machine's start to the process's; None if there is none, or only its unburied remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def with_parent(command: list[str]) -> list[str]:
    """`command` as one that is killed when the calling process's main thread ends. It must be started from there."""
    return [sys.executable, "-P", "-m", "workers.parent", str(os.getpid()), *command]
