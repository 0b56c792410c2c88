"""Retry, cancel and delete a run, slice by slice, so that workers go on meanwhile. Rings no doorbell."""

from collections.abc import Callable
from dataclasses import replace

from db import runs
from db.models import RunState
from db.runs import RetryFilter
from db.session import Sessions, reading, write
from db.views import run_view
from workers.errors import UsageError

Tell = Callable[[int], None]  # called with how many images have been handled


def retry(sessions: Sessions, run_id: int, which: RetryFilter, tell: Tell = lambda done: None) -> int:
    """Move failed images, and without a choice the cancelled ones too, into new chunks; return how many.

    Raises `UsageError` for a run that is still loading.
    """
    with reading(sessions) as session:
        run = run_view(session, run_id, row_prompts=False)
        # What fails again while we are at it is for the next retry.
        limited = replace(which, last_chunk_id=runs.last_chunk_id(session, run_id))
    if run is not None and run.state == RunState.LOADING:
        raise UsageError(f"run {run.name} is still loading; retry it when its sam3-enqueue has ended")
    kinds = (False, True) if which == RetryFilter() else (False,)  # failed ones, then cancelled ones
    if run is not None and run.state == RunState.CANCELLED:
        write(sessions, runs.reopen_for, run_id, limited, kinds)
    moved = 0
    for cancelled in kinds:
        while count := write(sessions, runs.retry_slice, run_id, limited, cancelled=cancelled):
            moved += count
            tell(moved)
    return moved


def cancel(sessions: Sessions, run_id: int, tell: Tell = lambda done: None) -> int:
    """Stop a run: what is pending is cancelled, what is done stays. Returns how many images were cancelled.

    A cancel that was interrupted is finished by calling it again.
    """
    write(sessions, runs.cancel_run, run_id)
    cancelled = 0
    while (count := write(sessions, runs.cancel_slice, run_id)) is not None:
        cancelled += count
        tell(cancelled)
    return cancelled


def delete(sessions: Sessions, run_id: int, tell: Tell = lambda done: None) -> int:
    """Cancel a run and remove everything the database knows of it; return how many images that were."""
    cancel(sessions, run_id)
    deleted = 0
    while count := write(sessions, runs.delete_slice, run_id):
        deleted += count
        tell(deleted)
    write(sessions, runs.delete_run, run_id)
    return deleted
