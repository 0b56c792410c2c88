"""Looks at many files at a time, for a limited time: a lost mount may not answer for hours. Opens none of them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from workers.inference import location
from workers.inference.location import FileSeen

SAME_FILES_SECONDS = 10.0
LOOKERS = 16  # threads: a network disk answers several at a time


def stat_files(places: Sequence[str], seconds: float) -> dict[str, FileSeen | OSError]:
    """By place what is there, links followed, or why nothing. What took too long is left out."""
    waiting = deque(places)
    seen: dict[str, FileSeen | OSError] = {}

    def work() -> None:
        while waiting:
            try:
                place = waiting.popleft()
            except IndexError:  # another thread was quicker
                return
            seen[place] = _stat(place)

    in_time(work, seconds, threads=min(LOOKERS, len(places)))
    waiting.clear()
    return dict(seen)


def same_files(recorded: Sequence[tuple[int, str, int | None]], root: str) -> bool:
    """Whether the files of recorded rows are all below `root`. `recorded` are their numbers, paths, and sizes in bytes,
    None where a size is not known."""
    seen = stat_files([location.place(root, path) for _, path, _ in recorded], SAME_FILES_SECONDS)
    for _, path, size in recorded:
        found = seen.get(location.place(root, path))
        if not isinstance(found, FileSeen) or size not in (None, found.size):
            return False
    return True


def in_time(work: Callable[[], object], seconds: float, threads: int = 1) -> None:
    """Let threads do this, but wait only so long: one that hangs in a lost mount is left behind."""
    # Daemons: such a one does not keep this process from ending.
    started = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    end = time.monotonic() + seconds
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(max(0.0, end - time.monotonic()))


def _stat(place: str) -> FileSeen | OSError:
    try:
        return location.stat(place)
    except OSError as error:
        return error
