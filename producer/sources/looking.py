"""Asks for the size and time of many files at once, for a limited time, as a lost mount may not answer for hours.

Opens no file.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from workers.places import location
from workers.places.location import FileSeen

SAME_FILES_SECONDS = 10.0
LOOKERS = 16  # threads, since a network disk answers several questions at a time


def stat_files(places: Sequence[str], seconds: float) -> dict[str, FileSeen | OSError]:
    """For each path its file, links followed, or the error. Paths without an answer after `seconds` are left out."""
    waiting = deque(places)
    seen: dict[str, FileSeen | OSError] = {}

    def work() -> None:
        while waiting:
            try:
                place = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            seen[place] = _stat(place)

    in_time(work, seconds, threads=min(LOOKERS, len(places)))
    waiting.clear()
    return dict(seen)


def same_files(recorded: Sequence[tuple[int, str, int | None]], root: str) -> bool:
    """Whether the files of all these recorded rows exist below `root` and have the recorded sizes.

    `recorded` are numbers, paths, and sizes in bytes; a size that is None is not compared.
    """
    seen = stat_files([location.place(root, path) for _, path, _ in recorded], SAME_FILES_SECONDS)
    for _, path, size in recorded:
        found = seen.get(location.place(root, path))
        if not isinstance(found, FileSeen) or size not in (None, found.size):
            return False
    return True


def in_time(work: Callable[[], object], seconds: float, threads: int = 1) -> None:
    """Run `work` in threads and wait for them up to `seconds`. A thread that hangs in a lost mount is left alone."""
    # Daemon threads do not keep this process from ending.
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
