"""Retry, cancel and delete a run, slice by slice, so that workers go on meanwhile. Rings no doorbell.

Cancel and delete begin with the run's state: once that is written, a reconciler finishes what a killed command left,
and so does the same command again.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from db import runs
from db.models import RunState
from db.runs import RetryFilter
from db.session import Sessions, reading, write
from db.slices import in_slices
from db.views.status import run_view
from workers.errors import UsageError

Tell = Callable[[int, int], None]  # called with how many rows or images have been handled, of how many


def ignore(done: int, total: int) -> None:
    """Nobody wants to know."""


def retry(sessions: Sessions, run_id: int, which: RetryFilter, tell: Tell = ignore) -> int:
    """Move failed images, and without a choice the cancelled ones too, into new chunks; return how many.

    A run that is cancelled or deleted meanwhile ends it. Raises `UsageError` for a run that is still loading.
    """
    with reading(sessions) as session:
        run = run_view(session, run_id, row_prompts=False)
        # What fails again while we are at it is for the next retry.
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
    """Stop a run: what is pending is cancelled, what is done stays. Returns how many images were cancelled."""
    write(sessions, runs.cancel_run, run_id)
    with reading(sessions) as session:
        total = runs.pending_images(session, run_id)
    return in_slices(sessions, runs.cancel_slice, run_id, lambda done: tell(done, total))


def delete(sessions: Sessions, run_id: int, tell: Tell = ignore) -> int:
    """Remove everything the database knows of a run; return how many images that were."""
    write(sessions, runs.begin_delete, run_id)
    with reading(sessions) as session:
        run = run_view(session, run_id, row_prompts=False)
        total = 0 if run is None else run.images
    return in_slices(sessions, runs.delete_slice, run_id, lambda done: tell(done, total))
