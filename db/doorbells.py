"""Chooses the chunks whose doorbells are rung, pending -> queued, and takes back those that no worker claims.

A doorbell is a message on the broker that says a chunk may be claimed. This module publishes none: its functions take
the caller's session and never commit, and the caller commits first and publishes afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, true
from sqlalchemy.orm import Session

from db.bulk import named_at_once
from db.chunks import Transition, change_chunks, in_order
from db.models import Chunk, Image, Installation, Run
from db.session import now
from db.states import ChunkState, RunState
from db.times import is_over


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


def ring_pending(session: Session, run_id: int, limit: int) -> list[RungChunk]:
    """pending -> queued for up to `limit` chunks of an active run that are not resting.

    The caller commits, then publishes their doorbells.
    """
    due = (
        select(Chunk.id)
        .join(Run, Run.id == Chunk.run_id)
        .where(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING, Run.state == RunState.ACTIVE)
        .where(Chunk.not_before.is_(None) | is_over(Chunk.not_before))
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
    return change_chunks(session, transition, *where, ring=Chunk.ring + 1, rung_at=now(), not_before=None)


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
    """(chunk id, ring) of every queued chunk of an active run: the doorbells that should be on the broker."""
    active = select(Run.id).where(Run.state == RunState.ACTIVE)
    queued = select(Chunk.id, Chunk.ring).where(Chunk.state == ChunkState.QUEUED, Chunk.run_id.in_(active))
    return [(row.id, row.ring) for row in session.execute(queued)]


def forget_doorbells(session: Session) -> int:
    """queued -> pending for every chunk: the broker was started anew and holds nothing."""
    return change_chunks(session, Transition.FORGET_DOORBELL, in_order(Chunk.state == ChunkState.QUEUED))


def is_rung(session: Session, run_id: int, chunk_id: int) -> bool:
    """Whether the chunk belongs to this run and is queued."""
    queued = select(Chunk.id).where(Chunk.id == chunk_id, Chunk.run_id == run_id, Chunk.state == ChunkState.QUEUED)
    return session.execute(queued).first() is not None


def unqueue(session: Session, chunk_id: int, rest: float = 0) -> bool:
    """queued -> pending: the worker that answered the doorbell does not claim the chunk, which rests `rest` seconds."""
    not_before = now() + rest if rest else None
    return bool(change_chunks(session, Transition.HAND_BACK, Chunk.id == chunk_id, not_before=not_before))
