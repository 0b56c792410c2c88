"""What the stages of a stream report: how many images they finished, and in which time. Knows no stage's work.

The one seam for whoever measures: the seconds of a chunk, a progress guard, a metric.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class Stage(StrEnum):
    """What is done for a chunk. The first five overlap in threads of the stream; the last two are the thread that
    takes its outcomes, so that together they are the chunk's time."""

    READ = "read"  # a file's bytes from its disk
    DECODE = "decode"  # bytes to pixels
    PREPROCESS = "preprocess"  # pixels to the model's size
    FORWARD = "forward"  # the model, as far as the host works for it: a GPU may still compute when this ends
    MASKS = "masks"  # the wait for that GPU, then masks and their RLE
    COMMIT = "commit"  # the outcomes into the database
    WAITING = "waiting"  # for the next outcomes


Report = Callable[[Stage, int, float], None]
"""Called by any thread with the stage, how many images it finished, and the seconds that this took."""


def unheard(stage: Stage, images: int, seconds: float) -> None:
    """The report of a stream that nobody listens to."""


@contextmanager
def timed(report: Report, stage: Stage, images: int = 1) -> Iterator[None]:
    """Report what is done inside, however that ends."""
    began = time.perf_counter()
    try:
        yield
    finally:
        report(stage, images, time.perf_counter() - began)


class StageSeconds:
    """Adds up what all threads of one stream report. Each method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(Stage, 0.0)

    def add(self, stage: Stage, images: int, seconds: float) -> None:
        """A `Report`."""
        with self._lock:
            self._seconds[stage] += seconds

    def taken(self) -> dict[Stage, float]:
        """The seconds since the last call, by stage; they are given once."""
        with self._lock:
            taken, self._seconds = self._seconds, dict.fromkeys(Stage, 0.0)
        return taken
