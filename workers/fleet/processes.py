"""Who this process is, whether another one still lives, and how to start one that dies with us; knows no work."""

import os
import socket
import sys
from contextlib import suppress
from enum import Enum
from pathlib import Path

from db import named_leases
from db.presence import Process
from db.session import Sessions, read, write


class Fate(Enum):
    """What can be said of another process."""

    ALIVE = "alive"
    DEAD = "dead"  # for certain
    UNKNOWN = "unknown"  # of another machine or container, or hidden from us


def this_process() -> Process:
    """The identity of the calling process; unknown parts are empty or 0 where /proc does not exist."""
    boot = _boot()
    started = _state_and_start(os.getpid())[1] if boot else 0
    return Process(socket.gethostname(), boot, os.getpid(), started)


def is_dead(process: Process) -> bool:
    """True only if the process ran in this start of this machine and is certainly gone."""
    return fate(process) is Fate.DEAD


def fate(process: Process) -> Fate:
    """Whether the process lives. What cannot be read is unknown, never dead: /proc may hide other users' processes."""
    me = this_process()
    if not (me.boot and process.started) or (process.host, process.boot) != (me.host, me.boot):
        return Fate.UNKNOWN
    try:
        state, started = _state_and_start(process.pid)
    except OSError:
        return Fate.DEAD if _is_free(process.pid) else Fate.UNKNOWN
    return Fate.DEAD if state in "ZX" or started != process.started else Fate.ALIVE


def take_lease(sessions: Sessions, name: str, me: Process, seconds: float) -> bool:
    """Take or renew a named lease; a holder that died on this machine is not waited for."""
    holder = read(sessions, named_leases.lease_holder, name)
    dead = holder if holder is not None and is_dead(holder) else None
    return write(sessions, named_leases.acquire_lease, name, me, seconds, dead=dead)


def _boot() -> str:
    """This start of the machine, and the namespaces of processes and of time: in another container the same numbers
    mean others. Empty where /proc does not tell, or shows the processes of another namespace than ours."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespaces = [os.readlink("/proc/self/ns/pid")]
        with suppress(FileNotFoundError):  # older kernels have one time for all
            namespaces.append(os.readlink("/proc/self/ns/time"))
        return " ".join([boot, *namespaces])
    except OSError:
        return ""


def _state_and_start(pid: int) -> tuple[str, int]:
    """The state of the process, and ticks from the machine's start to its own. Raises `OSError`: gone, or hidden."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], int(fields[19])


def _is_free(pid: int) -> bool:
    """Whether no process has this number. The kernel answers that from its own table, whatever /proc shows."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # there is one, of somebody else
        return False
    return False


def with_parent(command: list[str]) -> list[str]:
    """`command` as one that is killed when the calling process's main thread ends. It must be started from there."""
    return [sys.executable, "-P", "-m", "workers.fleet.die_with_parent", str(os.getpid()), *command]
