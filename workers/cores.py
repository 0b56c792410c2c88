"""How many cores this process may use; the machine may have many more."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """As a scheduler (Slurm, `taskset`, cpusets) or a container's quota (`docker --cpus`, Kubernetes) leaves it."""
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """Cores that the kernel gives to this process's control groups: version 2, each with those above it, or 1."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:  # no Linux
        return
    own = PurePosixPath(next((line[3:] for line in lines if line.startswith("0::")), "/"))
    for group in (own, *own.parents):
        yield from _quota(CGROUPS / group.relative_to("/") / "cpu.max")
    yield from _quota(CGROUPS / "cpu" / "cpu.cfs_quota_us", CGROUPS / "cpu" / "cpu.cfs_period_us")


def _quota(*files: Path) -> Iterator[float]:
    """Microseconds of a core in so many of the clock; "max" or -1 where nothing is limited."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        if float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError):
        return
