"""Finds the rows of a batch that make a piece of work raise: in halves, until each of them is alone. Knows no model.

One such row in a batch of b costs at most 2 log2 b more calls, no attempt of its chunk, and nothing of its neighbours.
Images that kill their process can only be found by attempts (db.splits). One that merely raises leaves a process that
can go on, so it is found at once, without the pauses between attempts.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from workers.errors import one_line

T = TypeVar("T")


@dataclass(frozen=True)
class Raised:
    """The error that the work raised for one row alone."""

    error: Exception

    @property
    def text(self) -> str:
        """The type of the error and its message, in one line."""
        return one_line(f"{type(self.error).__name__}: {self.error}")


def narrowed(
    rows: range, work: Callable[[range], Sequence[T]], narrows: Callable[[Exception], bool]
) -> list[T | Raised]:
    """The results of `work` on `rows`, one for each row. If it raises an error, it is called again for each half.

    If `narrows(error)` is false the error is raised at once, as it does not come from a row, and another call might do
    harm.
    """
    try:
        return list(work(rows))
    except Exception as error:
        if not narrows(error):
            raise
        alone = [Raised(_let_go(error))] if len(rows) == 1 else None
    # After the block above: only now the error of the batch is freed, whose traceback holds the pixels of the batch.
    if alone is not None:
        return list(alone)
    half = rows.start + len(rows) // 2
    parts = (range(rows.start, half), range(half, rows.stop))
    return [result for part in parts for result in narrowed(part, work, narrows)]


def _let_go(error: Exception) -> Exception:
    """The error with its traceback, but without the pixels and tensors that the frames of the traceback hold."""
    one: BaseException | None = error
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one = one.__context__
    return error
