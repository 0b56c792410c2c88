"""Chooses the chunks whose doorbells are rung, pending -> queued, and takes back those that no worker claims.

A doorbell is a message on the broker that says a chunk may be claimed. This module publishes none: its functions take
the caller's session and never commit, and the caller commits first and publishes afterwards.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import Session

from db.bulk import named_at_once
from db.chunks import change_chunks, in_order, lock_run
from db.models import Chunk, Image, Installation, Run
from db.states import TAKEN, ChunkState
from db.steering import GOES_ON, IS_DUE, higher_waits
from db.times import now
from db.transitions import Transition


class Call(Enum):
    """What a doorbell asks of the worker that answers it."""

    ITS_TURN = "its turn"
    OUTRANKED = "outranked"  # a run of higher priority waits: the chunk is to be handed back
    LATE = "late"  # the chunk is not queued: the doorbell came late or twice


@dataclass(frozen=True)
class RungChunk:
    """A chunk that is queued, with what its doorbell says."""

    run_id: int
    run_name: str
    chunk_id: int
    number: int
    ring: int
    images: int
    first_path: str
    database: str  # identity of the database; it names the queue of the doorbell


def identity(session: Session) -> str:
    """The random name of this database, which tells its doorbells from those of other databases."""
    return session.execute(select(Installation.identity)).scalar_one()


def ring_pending(session: Session, run_id: int, limit: int, most: int | None = None) -> list[RungChunk]:
    """pending -> queued for up to `limit` chunks of an active run that is not paused, if they are not resting.

    With `most`, no more chunks of the run are then queued or running than that. The caller commits, then publishes
    their doorbells.
    """
    if most is not None:
        # Locked, so that two workers do not both take the last place. The chunks below are not waited for, so the order
        # of locks, chunks before runs, need not hold here.
        lock_run(session, run_id)
        taken = select(func.count()).where(Chunk.run_id == run_id, Chunk.state.in_(TAKEN))
        limit = min(limit, most - session.execute(taken).scalar_one())
    if limit <= 0:
        return []
    due = (
        select(Chunk.id)
        .join(Run, Run.id == Chunk.run_id)
        .where(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING, GOES_ON, IS_DUE)
        .order_by(Chunk.number)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Chunk)
    )
    ids = list(session.execute(due).scalars())
    for part in named_at_once(ids):
        _ring(session, Transition.RING, Chunk.id.in_(part))
    return rung_chunks(session, ids)


def ring_again(session: Session, chunk_id: int, ring: int) -> list[RungChunk]:
    """queued -> queued with a new doorbell, if `ring` is still the last one; empty if it is not."""
    changed = _ring(session, Transition.RING_AGAIN, Chunk.id == chunk_id, Chunk.ring == ring)
    return rung_chunks(session, [chunk_id]) if changed else []


def _ring(session: Session, transition: Transition, *where: ColumnElement[bool]) -> int:
    return change_chunks(session, transition, *where, ring=Chunk.ring + 1, not_before=None)


def rung_chunks(session: Session, chunk_ids: Sequence[int]) -> list[RungChunk]:
    """What the doorbells of these chunks say, in the order of the chunks' numbers."""
    first_path = select(Image.path).where(Image.chunk_id == Chunk.id).order_by(Image.row).limit(1).scalar_subquery()
    rows = (
        select(Run.id, Run.name, Chunk.id, Chunk.number, Chunk.ring, Chunk.images, first_path, Installation.identity)
        .join(Run, Run.id == Chunk.run_id)
        .join(Installation, true())
        .order_by(Chunk.number)
    )
    found = [row for part in named_at_once(chunk_ids) for row in session.execute(rows.where(Chunk.id.in_(part)))]
    return [RungChunk(*row) for row in found]


def queued_doorbells(session: Session) -> list[tuple[int, int]]:
    """(chunk id, ring) of every queued chunk of a run that goes on: the doorbells that should be on the broker."""
    going_on = select(Run.id).where(GOES_ON)
    queued = select(Chunk.id, Chunk.ring).where(Chunk.state == ChunkState.QUEUED, Chunk.run_id.in_(going_on))
    return [(row.id, row.ring) for row in session.execute(queued)]


def forget_doorbells(session: Session) -> int:
    """queued -> pending for every chunk: the broker was started anew and holds nothing."""
    return change_chunks(session, Transition.FORGET_DOORBELL, in_order(Chunk.state == ChunkState.QUEUED))


def call_of(session: Session, run_id: int, chunk_id: int, without: Collection[int] = ()) -> Call:
    """What a doorbell of this chunk of this run asks for. `without` are runs that the worker cannot serve."""
    queued = select(higher_waits(run_id, without)).select_from(Chunk)
    outranked = session.execute(
        queued.where(Chunk.id == chunk_id, Chunk.run_id == run_id, Chunk.state == ChunkState.QUEUED)
    ).scalar_one_or_none()
    if outranked is None:
        return Call.LATE
    return Call.OUTRANKED if outranked else Call.ITS_TURN


def unqueue(session: Session, chunk_id: int, rest: float = 0) -> bool:
    """queued -> pending: the worker that answered the doorbell does not claim the chunk, which rests `rest` seconds."""
    not_before = now() + rest if rest else None
    return bool(change_chunks(session, Transition.HAND_BACK, Chunk.id == chunk_id, not_before=not_before))
