"""How many cores this process may use; the machine may have many more. Knows no nodes and no settings."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Whole cores that this process may use, at least 1.

    A scheduler (Slurm, `taskset`, cpusets) or a container's quota (`docker --cpus`, Kubernetes) may limit them.
    """
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """The quotas in cores of this process's control groups, of version 2 with all groups above it, and of version 1.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max).
    """
    for group in own_groups():
        yield from _quota(group / "cpu.max")
    yield from _quota(CGROUPS / "cpu" / "cpu.cfs_quota_us", CGROUPS / "cpu" / "cpu.cfs_period_us")


def own_groups() -> list[Path]:
    """The folders of this process's control group of version 2 and of all groups above it; none if this is no Linux."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return []
    own = PurePosixPath(next((line[3:] for line in lines if line.startswith("0::")), "/"))
    return [CGROUPS / group.relative_to("/") for group in (own, *own.parents)]


def _quota(*files: Path) -> Iterator[float]:
    """The quota in cores that these files name, if they name one: microseconds of a core in a period of microseconds.

    Without a limit the quota is "max" or -1.
    """
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        if float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError):
        return
