"""Looking at real processes: who is whose parent, and who is still there."""

import subprocess
from pathlib import Path


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def state_of(pid: int) -> str:
    """As `ps` shows it: R, S, Z, ...; empty of one that is not there."""
    try:
        return _stat(pid)[0]
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    try:
        return _stat(pid)[0] in "ZX"
    except OSError:
        return True


def command_lines() -> str:
    """What `ps` shows of everybody to everybody."""
    return subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
