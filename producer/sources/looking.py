"""Looks at many files at a time, for a limited time: a lost mount may not answer for hours. Opens none of them."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

LOOKERS = 16  # threads: a network disk answers several at a time

Stat = Callable[[str], os.stat_result | OSError]


def stat_files(paths: Sequence[str], seconds: float) -> dict[str, os.stat_result | OSError]:
    """By path what the system says of the file, links followed, or why nothing. What took too long is left out."""
    waiting = deque(paths)
    seen: dict[str, os.stat_result | OSError] = {}

    def work() -> None:
        while waiting:
            try:
                path = waiting.popleft()
            except IndexError:  # another thread was quicker
                return
            seen[path] = _stat(path)

    in_time(work, seconds, threads=min(LOOKERS, len(paths)))
    waiting.clear()
    return dict(seen)


def in_time(work: Callable[[], object], seconds: float, threads: int = 1) -> None:
    """Let threads do this, but wait only so long: one that hangs in a lost mount is left behind."""
    # Daemons: such a one does not keep this process from ending.
    started = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    end = time.monotonic() + seconds
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(max(0.0, end - time.monotonic()))


def _stat(path: str) -> os.stat_result | OSError:
    try:
        return os.stat(path)
    except OSError as error:
        return error
    except ValueError as error:  # a NUL in the path
        return OSError(str(error))
