"""The states of runs, chunks, images and workers. Knows no tables; `db.chunks` says how a chunk changes its state."""

from enum import StrEnum


class RunState(StrEnum):
    LOADING = "loading"  # rows are still arriving; none of its chunks is dispatched or claimed
    ACTIVE = "active"
    DONE = "done"  # no image is pending
    CANCELLING = "cancelling"  # no chunk of it is claimed or committed any more; its live chunks are being cancelled
    CANCELLED = "cancelled"
    DELETING = "deleting"  # its rows are being deleted, the run's own row last


OVER = (RunState.DONE, RunState.CANCELLED)  # nothing of such a run is pending
STOPPING = (RunState.CANCELLING, RunState.DELETING)  # what a command began is not finished
STOPPED = (RunState.CANCELLING, RunState.CANCELLED, RunState.DELETING)


def run_is_over(state: str, *, unsettled: bool) -> bool:
    """Whether a run in this state is over. One whose prompts were changed goes on once its images have followed."""
    return state == RunState.CANCELLED or (state == RunState.DONE and not unsettled)


class ChunkState(StrEnum):
    PENDING = "pending"  # waits for its turn, or for not_before
    QUEUED = "queued"  # its doorbell was rung
    RUNNING = "running"  # a worker holds its lease
    DONE = "done"  # none of its images is pending
    FAILED = "failed"  # too many attempts without a commit; its pending images failed with it
    CANCELLED = "cancelled"


LIVE = (ChunkState.PENDING, ChunkState.QUEUED, ChunkState.RUNNING)
TAKEN = (ChunkState.QUEUED, ChunkState.RUNNING)  # a worker is called for it, or has it


class ImageState(StrEnum):
    PENDING = "pending"
    DONE = "done"  # also when nothing was found
    FAILED = "failed"
    CANCELLED = "cancelled"
    DUPLICATE = "duplicate"  # the same path, prompts and boxes as an earlier row, `same_as`
    REJECTED = "rejected"  # a bad row; like a duplicate it belongs to no chunk


class WorkerState(StrEnum):
    IDLE = "idle"
    LOADING = "loading"  # loads the model of the run whose doorbell it answered
    RUNNING = "running"  # holds a chunk
    DECLINED = "declined"  # cannot serve the run, `message` says why; it waits for a chunk of another run
    DEAD = "dead"  # its process ended without a last report
