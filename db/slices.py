"""Long work on a run, one transaction after the other, with room for workers between them. Knows no rows and no states.

A transaction holds up the commits of workers, on SQLite all of them. So it is short while any worker is busy, and
after it the database is left to them for as long as it took.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy.orm import Session

from db import presence
from db.session import Sessions, read, write

SLICE_ROWS = 1000  # the most rows of one transaction beside busy workers

# The most while no worker commits. What a transaction costs besides its rows is shared by more of them: waiting for
# the disk, and on SQLite writing every page that it touched, of the index on paths up to one a row.
IDLE_SLICE_ROWS = 30_000

Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """How far a pass over a run has come: the numbers of the last chunk, and of the last row without one."""

    chunk: int = 0
    row: int = 0


@dataclass(frozen=True)
class Slice:
    """What one transaction of a pass did, and where the next one goes on; None at the end of the pass."""

    images: int
    place: Place | None


def slice_rows(sessions: Sessions) -> int:
    """How many rows the next transaction may take."""
    return SLICE_ROWS if read(sessions, presence.busy_workers) else IDLE_SLICE_ROWS


def paced(sessions: Sessions, work: Callable[[], Value]) -> Value:
    """The value of `work()`, which writes; then, while workers commit, a pause of as long as that took."""
    began = time.monotonic()
    value = work()
    took = time.monotonic() - began
    if read(sessions, presence.busy_workers):
        time.sleep(took)
    return value


def in_slices(
    sessions: Sessions,
    work: Callable[[Session, int, Place, int], Slice],
    run_id: int,
    tell: Callable[[int], object] = lambda images: None,
    enough: Callable[[], bool] = lambda: False,
) -> int:
    """Call `work(session, run_id, place, rows)` until its pass is over, each time in a transaction of its own.

    `tell` is called after each with how many images have been handled so far, `enough` says whether to stop early.
    Returns how many images that were.
    """
    images, place = 0, Place()
    while True:
        done = paced(sessions, partial(write, sessions, work, run_id, place, slice_rows(sessions)))
        images += done.images
        tell(images)
        if done.place is None or enough():
            return images
        place = done.place
