"""What the stages of a stream report: how many images they finished, and in how many seconds. Knows no stage's work.

All that measures uses these reports: the seconds of a chunk, the guard that notices a stall, a metric.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class Stage(StrEnum):
    """What is done for a chunk. The first five are done by threads at the same time. The last two are done by the one
    thread that takes the outcomes, so their sum is the time of the chunk."""

    READ = "read"  # a file's bytes from its disk
    DECODE = "decode"  # bytes to pixels
    PREPROCESS = "preprocess"  # pixels to the model's size
    FORWARD = "forward"  # the host's work for a forward pass: a GPU may still compute when this ends
    MASKS = "masks"  # waiting for the GPU, then making masks and their RLE
    COMMIT = "commit"  # writing the outcomes to the database
    WAITING = "waiting"  # waiting for the next outcomes


Report = Callable[[Stage, int, float], None]
"""Called by any thread with the stage, how many images it finished, and the seconds that this took."""


def unheard(stage: Stage, images: int, seconds: float) -> None:
    """A `Report` that does nothing."""


@contextmanager
def timed(report: Report, stage: Stage, images: int = 1) -> Iterator[None]:
    """Report the seconds of the block, also if it raises an error."""
    began = time.perf_counter()
    try:
        yield
    finally:
        report(stage, images, time.perf_counter() - began)


class StageSeconds:
    """Adds up the seconds that all threads of one stream report. Any thread may call its methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(Stage, 0.0)

    def add(self, stage: Stage, images: int, seconds: float) -> None:
        """A `Report`."""
        with self._lock:
            self._seconds[stage] += seconds

    def taken(self) -> dict[Stage, float]:
        """The seconds since the last call, by stage."""
        with self._lock:
            taken, self._seconds = self._seconds, dict.fromkeys(Stage, 0.0)
        return taken
