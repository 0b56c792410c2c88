"""Retries, cancels and deletes a run, slice by slice, so that workers go on meanwhile. Rings no doorbell.

Cancel and delete first write the run's state. If the command is then killed, a reconciler or the same command again
finishes the work.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from db import prompts, runs
from db.chunks import ClaimedMeanwhile
from db.runs import RetryFilter
from db.session import Sessions, reading, write
from db.slices import in_slices
from db.states import RunState
from db.views.run_views import run_view
from workers.errors import UsageError

Value = TypeVar("Value")
Tell = Callable[[int, int], None]  # is called with the number of rows or images handled so far, and their total


def ignore(done: int, total: int) -> None:
    """A `Tell` that shows nothing."""


def until_unclaimed(change: Callable[[], Value]) -> Value:
    """Return `change()`, which is repeated as long as a worker claims a chunk of the run meanwhile."""
    while True:
        with suppress(ClaimedMeanwhile):
            return change()


def settle(sessions: Sessions, run_id: int, tell: Tell = ignore) -> int:
    """Let the images of a run follow a change of its prompts; return how many are to be computed for new ones.

    An interrupted pass is continued by any of the commands that record, retry or redo the run.
    """
    with reading(sessions) as session:
        run = run_view(session, run_id, row_prompts=False)
        last_chunk, total = runs.last_chunk_id(session, run_id) or 0, runs.done_images(session, run_id)
    if run is None or not run.unsettled:
        return 0
    follow = partial(prompts.settle_slice, last_chunk=last_chunk)
    return in_slices(sessions, follow, run_id, lambda done: tell(done, max(done, total)))


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
    if run is not None and run.state == RunState.CANCELLED:
        write(sessions, runs.reopen, run_id)
    return in_slices(sessions, partial(runs.retry_slice, which=limited), run_id, lambda done: tell(done, total))


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
