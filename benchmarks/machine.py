"""What figures were measured with: the commit, the processor, the memory. Measures nothing."""

import os
import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """The short name of this checkout's commit."""
    here = Path(__file__).parent
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        told = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # a bare machine
        return "unknown"
    return told.stdout.strip() or "unknown"


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def memory_gb() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
