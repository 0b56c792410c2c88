"""Divides long work on a run into short transactions, with pauses for the workers. Knows no rows and no states.

A transaction delays the commits of workers; on SQLite it delays all of them. So while any worker is busy, each
transaction is short, and the pause after it is as long as the transaction was.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy.orm import Session

from db import presence
from db.session import Sessions, read, write

SLICE_ROWS = 1000  # most rows of one transaction while a worker is busy

# Most rows of one transaction while no worker is busy. A transaction has costs that do not grow with its rows, such as
# waiting for the disk. On SQLite it also writes each page that it touched: in the index on paths up to one a row.
IDLE_SLICE_ROWS = 30_000

Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """How far a pass over a run has come: the number of its last chunk, and of its last row without a chunk."""

    chunk: int = 0
    row: int = 0


@dataclass(frozen=True)
class Slice:
    """How many images one transaction of a pass handled, and where the next one goes on; None at the pass's end."""

    images: int
    place: Place | None


def slice_rows(sessions: Sessions) -> int:
    """How many rows the next transaction may take."""
    return SLICE_ROWS if read(sessions, presence.busy_workers) else IDLE_SLICE_ROWS


def paced(sessions: Sessions, work: Callable[[], Value]) -> Value:
    """Return `work()`, which writes to the database. While a worker is busy, then pause for as long as it took."""
    began = time.monotonic()
    value = work()
    took = time.monotonic() - began
    if read(sessions, presence.busy_workers):
        time.sleep(took)
    return value


def slices(
    sessions: Sessions, work: Callable[[Session, int, Place, int], Slice], run_id: int, place: Place | None = None
) -> Iterator[Slice]:
    """Call `work(session, run_id, place, rows)` until its pass is over, each time in a transaction of its own.

    Yields what each transaction did. A pass that was left early goes on from its last `place`.
    """
    place = place or Place()
    while place is not None:
        done = paced(sessions, partial(write, sessions, work, run_id, place, slice_rows(sessions)))
        yield done
        place = done.place


def in_slices(
    sessions: Sessions,
    work: Callable[[Session, int, Place, int], Slice],
    run_id: int,
    tell: Callable[[int], object] = lambda images: None,
    enough: Callable[[], bool] = lambda: False,
) -> int:
    """Do the whole pass of `slices`.

    After each transaction `tell` gets the number of images handled so far, and `enough` says whether to stop early.
    Returns the number of images handled.
    """
    images = 0
    for done in slices(sessions, work, run_id):
        images += done.images
        tell(images)
        if enough():
            break
    return images
