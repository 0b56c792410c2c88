"""How many images of a run have ended, and whether the run may be exported. Reads SQL; knows no formats, no flags."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.states import OVER, RunState
from db.views import status
from producer.stopping import refusal
from workers.errors import NotOver


@dataclass(frozen=True)
class SoFar:
    """How many images of a run have ended at one moment. Duplicates and rejected rows are not counted."""

    run: str
    state: str
    ended: int  # images that are done, failed or cancelled
    total: int  # while the run is loading: images that were read so far
    cancelled: int
    over: bool

    def __str__(self) -> str:
        if self.state == RunState.LOADING:
            return f"{self.total:,} rows so far"
        return f"{self.ended:,} of {self.total:,} images so far"


def how_far(session: Session, run_id: int) -> SoFar:
    """How many images of the run have ended. Raises `NoSuchRun` while it is being deleted, `RunGone` afterwards."""
    progress = status.progress(session, run_id)
    if progress.state == RunState.DELETING:
        raise refusal(progress.run, progress.state)
    images = progress.images
    total = images.total - images.duplicate - images.rejected
    return SoFar(progress.run, progress.state, total - images.pending, total, images.cancelled, progress.over)


def require_exportable(session: Session, run_id: int, *, partial: bool) -> None:
    """Raise `NotOver` if the run is not over and no `partial` export was asked for. Raises as `how_far` does."""
    now = how_far(session, run_id)
    if not (now.over or partial):
        still = "still loading" if now.state == RunState.LOADING else "not over"
        followed = now if now.state not in OVER else "not all of its images have followed a change of its prompts"
        raise NotOver(f"run {now.run} is {still}: {followed}")
