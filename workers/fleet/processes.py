"""Identifies this process, says whether another one lives, and starts one that ends with this one; knows no work."""

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
    """What is known about another process."""

    ALIVE = "alive"
    DEAD = "dead"  # certainly
    UNKNOWN = "unknown"  # it is on another machine or in another container, or hidden from this user


def this_process() -> Process:
    """The identity of the calling process. Without /proc, `boot` is empty and `started` is 0."""
    boot = _boot()
    started = _state_and_start(os.getpid())[1] if boot else 0
    return Process(socket.gethostname(), boot, os.getpid(), started)


def is_dead(process: Process) -> bool:
    """True only if the process ran on this machine since its last start and has certainly ended."""
    return fate(process) is Fate.DEAD


def fate(process: Process) -> Fate:
    """Whether the process lives. If that cannot be read it is unknown, never dead: /proc may hide processes of others.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html.
    """
    me = this_process()
    if not (me.boot and process.started) or (process.host, process.boot) != (me.host, me.boot):
        return Fate.UNKNOWN
    try:
        state, started = _state_and_start(process.pid)
    except OSError:
        return Fate.DEAD if _is_free(process.pid) else Fate.UNKNOWN
    return Fate.DEAD if state in "ZX" or started != process.started else Fate.ALIVE


def take_lease(sessions: Sessions, name: str, me: Process, seconds: float) -> bool:
    """Take or renew a named lease for `seconds`; true if `me` has it now. A holder that died here loses it at once."""
    holder = read(sessions, named_leases.lease_holder, name)
    dead = holder if holder is not None and is_dead(holder) else None
    return write(sessions, named_leases.acquire_lease, name, me, seconds, dead=dead)


def is_held(sessions: Sessions, name: str) -> bool:
    """Whether a process has the named lease now that is not known to have died."""
    holder = read(sessions, named_leases.live_holder, name)
    return holder is not None and not is_dead(holder)


def _boot() -> str:
    """Names this start of the machine and the namespaces of pids and of time, as a pid means another process elsewhere.

    Empty if there is no /proc, or if it shows the processes of another namespace.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespaces = [os.readlink("/proc/self/ns/pid")]
        with suppress(FileNotFoundError):  # kernels before 5.6 have no namespaces of time
            namespaces.append(os.readlink("/proc/self/ns/time"))
        return " ".join([boot, *namespaces])
    except OSError:
        return ""


def _state_and_start(pid: int) -> tuple[str, int]:
    """The state of a process, and the ticks from the machine's start to its start.

    Raises `OSError` if the process has ended or is hidden.
    """
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()  # the name of the program, in brackets, may hold blanks and brackets
    return fields[0], int(fields[19])


def _is_free(pid: int) -> bool:
    """Whether no process has this pid. The kernel knows that even if /proc hides the process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # a process of another user has it
        return False
    return False


def with_parent(command: list[str]) -> list[str]:
    """The command line that runs `command` so that it is killed when the thread that started it ends.

    So it must be started from the main thread.
    """
    return [sys.executable, "-P", "-m", "workers.fleet.die_with_parent", str(os.getpid()), *command]
