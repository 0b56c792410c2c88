"""How runs are steered while they go on: pause and resume, priority, share; and whose turn it is.

A pause is no state of a run but stands beside it, since a paused run may be loading, grow, be retried or be cancelled.
Rings no doorbell and never commits.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.orm import Session, aliased

from db.chunks import rowcount
from db.models import Chunk, Run, Worker
from db.presence import LIVE_SECONDS
from db.states import ChunkState, RunState, WorkerState
from db.times import is_over, is_recent, now

BY_HAND = "by sam3-pause"  # why a run is paused, if an operator did it
PAUSABLE = (RunState.LOADING, RunState.ACTIVE)
GOES_ON = and_(Run.state == RunState.ACTIVE, Run.paused.is_(None))  # workers may begin chunks of the run
IS_DUE: ColumnElement[bool] = Chunk.not_before.is_(None) | is_over(Chunk.not_before)  # said of a pending chunk


@dataclass(frozen=True)
class Turn:
    """A run that goes on, with what decides how many of its chunks may be rung."""

    run_id: int
    name: str
    priority: int
    share: float  # of the live workers, more than 0 and at most 1
    queued: int  # chunks
    running: int
    is_due: bool  # it has a pending chunk that is not resting
    is_declined: bool  # by a live worker
    stop_after: Sequence[str] | None  # each a `db.values.StopRule`


def pause(session: Session, run_id: int, why: str) -> bool:
    """Begin no more chunks of the run, for the reason `why`. False: it is paused already, over, or being stopped.

    A worker that has a chunk of it in hand commits its batch and gives back the rest.
    """
    going_on = (Run.id == run_id, Run.state.in_(PAUSABLE), Run.paused.is_(None))
    return bool(rowcount(session, update(Run).where(*going_on).values(paused=why)))


def resume(session: Session, run_id: int) -> str | None:
    """End the pause of a run; return why it was paused, or None if it was not."""
    why = select(Run.paused).where(Run.id == run_id).with_for_update(key_share=True)
    paused = session.execute(why).scalar_one_or_none()
    if paused is not None:
        session.execute(update(Run).where(Run.id == run_id).values(paused=None, resumed_at=now()))
    return paused


def pause_of(session: Session, run_id: int) -> str | None:
    """Why the run is paused; None if it is not."""
    return session.execute(select(Run.paused).where(Run.id == run_id)).scalar_one_or_none()


def steer(session: Session, run_id: int, **values: Any) -> None:
    """Change `priority`, `share` or `stop_after` of a run, in whatever state it is."""
    session.execute(update(Run).where(Run.id == run_id).values(**values))


def turns(session: Session) -> Sequence[Turn]:
    """All runs that go on: those of higher priority first, and among equals the oldest first."""
    due = select(Chunk.id).where(Chunk.run_id == Run.id, Chunk.state == ChunkState.PENDING, IS_DUE)
    declines = select(Worker.id).where(
        Worker.run_id == Run.id, Worker.state == WorkerState.DECLINED, is_recent(Worker.heartbeat, LIVE_SECONDS)
    )
    counts = (_count(ChunkState.QUEUED), _count(ChunkState.RUNNING), due.exists(), declines.exists())
    columns = (Run.id, Run.name, Run.priority, Run.share, *counts, Run.stop_after)
    rows = session.execute(select(*columns).where(GOES_ON).order_by(Run.priority.desc(), Run.id))
    return [Turn(*row) for row in rows]


def _count(state: ChunkState) -> Any:
    return select(func.count()).where(Chunk.run_id == Run.id, Chunk.state == state).scalar_subquery()


def higher_waits(run_id: int, without: Collection[int]) -> ColumnElement[bool]:
    """A condition: a doorbell of a run with a higher priority than this run waits for an answer.

    Runs whose ids are in `without` do not count, as the asking worker cannot serve them. A chunk whose doorbell was
    answered stays queued while the worker loads the model: it does not count either.
    """
    mine = aliased(Run)
    priority = select(mine.priority).where(mine.id == run_id).scalar_subquery()
    answered = select(Worker.id).where(Worker.chunk_id == Chunk.id, Worker.state == WorkerState.LOADING)
    waits = select(Chunk.id).where(Chunk.run_id == Run.id, Chunk.state == ChunkState.QUEUED, ~answered.exists())
    higher = select(Run.id).where(GOES_ON, Run.priority > priority, Run.id.not_in(sorted(without)), waits.exists())
    return higher.exists()
