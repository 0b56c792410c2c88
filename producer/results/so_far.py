"""How much of a run there is to export, and whether that is all. Reads SQL; knows no formats and no flags."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Run, RunState
from db.views import status
from db.views.status import OVER
from producer.stopping import refusal
from workers.errors import NotOver


@dataclass(frozen=True)
class SoFar:
    """Where a run stands at one moment, in images that are to be segmented: no duplicates, no rejected rows."""

    run: str
    state: str
    ended: int  # done, failed or cancelled
    total: int  # while the run is loading: that were read so far
    cancelled: int

    @property
    def over(self) -> bool:
        return self.state in OVER

    def __str__(self) -> str:
        if self.state == RunState.LOADING:
            return f"{self.total:,} rows so far"
        return f"{self.ended:,} of {self.total:,} images so far"


def how_far(session: Session, run_id: int) -> SoFar:
    """Raises `NoSuchRun` for a run that is being deleted: what is left of it means nothing. Raises `RunGone`."""
    row = session.execute(select(Run.name, Run.state).where(Run.id == run_id)).one_or_none()
    if row is None:
        raise status.RunGone
    if row.state == RunState.DELETING:
        raise refusal(row.name, row.state)
    progress = status.progress(session, run_id)
    images = progress.images
    total = images.total - images.duplicate - images.rejected
    return SoFar(progress.run, progress.state, total - images.pending, total, images.cancelled)


def require_exportable(session: Session, run_id: int, *, partial: bool) -> None:
    """Raises `NotOver`, with what there is so far, if anything of the run is still to come and no part was asked for;
    and like `how_far`."""
    now = how_far(session, run_id)
    if not (now.over or partial):
        still = "still loading" if now.state == RunState.LOADING else "not over"
        raise NotOver(f"run {now.run} is {still}: {now}")
