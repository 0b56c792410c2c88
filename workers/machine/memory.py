"""How much memory this process may use; the machine may have much more. Knows no images and no settings."""

import os
from collections.abc import Iterator

from workers.machine.cores import own_groups


def usable_memory() -> int:
    """Bytes that this process may use: those of the machine, or of a container with less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits()])


def _limits() -> Iterator[int]:
    """The limits of this process's control groups, in bytes; the file says "max" where there is none.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max).
    """
    for group in own_groups():
        try:
            yield int((group / "memory.max").read_text())
        except (OSError, ValueError):
            continue
