"""Retries, cancels and deletes a run, slice by slice, so that workers go on meanwhile. Rings no doorbell.

Cancel and delete first write the run's state. If the command is then killed, a reconciler or the same command again
finishes the work.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from sqlalchemy.orm import Session

from db import prompts, runs
from db.chunks import ClaimedMeanwhile
from db.runs import RetryFilter
from db.session import Sessions, read, reading, write
from db.slices import Place, Slice, in_slices
from db.states import RunState
from db.views.run_views import run_view
from workers.errors import UsageError

Value = TypeVar("Value")
Pass = Callable[[Session, int, Place, int], Slice]
Tell = Callable[[int, int], None]  # is called with the number of rows or images handled so far, and their total


def ignore(done: int, total: int) -> None:
    """A `Tell` that shows nothing."""


def until_unclaimed(change: Callable[[], Value]) -> Value:
    """Return `change()`, which is repeated as long as a worker claims a chunk of the run meanwhile."""
    while True:
        with suppress(ClaimedMeanwhile):
            return change()


def settle(sessions: Sessions, run_id: int, within: Callable[[Pass], Pass] = lambda work: work) -> int:
    """Let the images of a run follow a change of its prompts; return how many are to be computed for new ones.

    `within` may put something around each transaction. An interrupted pass is continued by a reconciler, and by any of
    the commands that record, retry or redo the run.
    """
    settling = read(sessions, prompts.begin_settling, run_id)
    if settling is None:
        return 0
    return in_slices(sessions, within(partial(prompts.settle_slice, settling=settling)), run_id)


def retry(sessions: Sessions, run_id: int, which: RetryFilter, tell: Tell = ignore) -> int:
    """Make the images that `which` chooses pending again in new chunks; return how many these are.

    Stops if the run is cancelled or deleted meanwhile. Raises `UsageError` for a run that is still loading.
    """
    settle(sessions, run_id)
    with reading(sessions) as session:
        run = run_view(session, run_id, row_prompts=False)
        # Images that fail again during this retry are left for the next one.
        limited = replace(which, last_chunk_id=runs.last_chunk_id(session, run_id))
        total = runs.retryable_images(session, run_id, limited)
    if run is not None and run.state == RunState.LOADING:
        raise UsageError(f"run {run.name} is still loading; retry it when its sam3-enqueue has ended")
    if not total:
        return 0
    take: Pass = partial(runs.retry_slice, which=limited)
    if run is not None and run.state == RunState.CANCELLED:
        take = _reopening(take)
    return in_slices(sessions, take, run_id, lambda done: tell(done, total))


def _reopening(work: Pass) -> Pass:
    """Return `work` made to reopen a cancelled run in its first transaction.

    An active run without open chunks would never end: this transaction also opens the first chunks of the retry.
    """

    def reopened(session: Session, run_id: int, place: Place, rows: int) -> Slice:
        if place == Place():
            runs.reopen(session, run_id)
        return work(session, run_id, place, rows)

    return reopened


def cancel(sessions: Sessions, run_id: int, tell: Tell = ignore) -> int:
    """Stop a run: cancel its pending images and keep its results. Returns how many images were cancelled."""
    write(sessions, runs.cancel_run, run_id)
    with reading(sessions) as session:
        total = runs.pending_images(session, run_id)
    return in_slices(sessions, runs.cancel_slice, run_id, lambda done: tell(done, total))


def delete(sessions: Sessions, run_id: int, tell: Tell = ignore) -> int:
    """Delete a run with all its rows; return how many images it had."""
    write(sessions, runs.begin_delete, run_id)
    with reading(sessions) as session:
        run = run_view(session, run_id, row_prompts=False)
        total = 0 if run is None else run.images
    return in_slices(sessions, runs.delete_slice, run_id, lambda done: tell(done, total))
