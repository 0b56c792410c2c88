"""What an operator does to a whole run: retry, cancel, delete, in slices. Functions never commit; knows no Celery."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from db.chunks import add_chunks, finish_run
from db.models import LIVE, Chunk, ChunkState, Image, ImageState, Instance, Prompt, Result, Run, RunState
from db.session import now


@dataclass(frozen=True)
class RetryFilter:
    """Which failed images to try again; None means all."""

    error_class: str | None = None
    chunk_number: int | None = None
    last_chunk_id: int | None = None  # not those that were moved to later chunks meanwhile, and failed anew


def run_id_of(session: Session, name: str) -> int | None:
    return session.execute(select(Run.id).where(Run.name == name)).scalar_one_or_none()


def reopen(session: Session, run_id: int) -> None:
    """done | cancelled -> active, so that retried images can be claimed."""
    session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state.in_((RunState.DONE, RunState.CANCELLED)))
        .values(state=RunState.ACTIVE, finished_at=None)
    )


def reopen_for(session: Session, run_id: int, which: RetryFilter, kinds: Sequence[bool]) -> None:
    """Reopen a cancelled run if it has images to retry: failed ones (False) or cancelled ones (True)."""
    for cancelled in kinds:
        first = select(Image.id).where(*retryable(run_id, which, cancelled=cancelled)).limit(1)
        if session.execute(first).first() is not None:
            reopen(session, run_id)


def retry_slice(session: Session, run_id: int, which: RetryFilter, *, cancelled: bool = False) -> int:
    """Move one chunk's worth of failed, or of cancelled, images into a new chunk; return how many, 0 at the end."""
    # Locked, so that it is not cancelled meanwhile and two retries do not give the same chunk number.
    run = select(Run.chunk_size, Run.state).where(Run.id == run_id).with_for_update(key_share=True)
    size, state = session.execute(run).one()
    if state not in (RunState.ACTIVE, RunState.DONE):
        return 0  # cancelled meanwhile
    images = session.execute(
        select(Image.id, Image.chunk_id, Image.state)
        .where(*retryable(run_id, which, cancelled=cancelled))
        .order_by(Image.row)
        .limit(size)
        .with_for_update()
    ).all()
    if not images:
        return 0
    [chunk_id] = add_chunks(session, run_id, [len(images)])
    ids = [image.id for image in images]
    session.execute(
        update(Image)
        .where(Image.id.in_(ids))
        .values(state=ImageState.PENDING, chunk_id=chunk_id, error_class=None, error=None)
    )
    old = {(image.chunk_id, image.state) for image in images}
    for old_id, old_state in old:
        count = sum((image.chunk_id, image.state) == (old_id, old_state) for image in images)
        _leave(session, old_id, old_state, count)
    reopen(session, run_id)
    return len(images)


def retryable(run_id: int, which: RetryFilter, *, cancelled: bool) -> tuple[ColumnElement[bool], ...]:
    """Which images a retry takes. Rows without a chunk (rejected ones) have nothing to try again."""
    state = ImageState.CANCELLED if cancelled else ImageState.FAILED
    where: tuple[ColumnElement[bool], ...] = (Image.run_id == run_id, Image.state == state)
    if which.error_class is not None:
        where += (Image.error_class == which.error_class,)
    elif not cancelled:
        where += (Image.error_class.is_not(None),)  # always true, and what the partial index is made for
    if which.last_chunk_id is not None:
        where += (Image.chunk_id <= which.last_chunk_id,)
    if which.chunk_number is not None:
        chunk = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.number == which.chunk_number)
        where += (Image.chunk_id == chunk.scalar_subquery(),)
    return where


def _leave(session: Session, chunk_id: int, state: str, count: int) -> None:
    """Take `count` images in `state` out of a chunk's counters; one that is left with none of them was done."""
    counter = Chunk.failed if state == ImageState.FAILED else Chunk.cancelled
    session.execute(
        update(Chunk).where(Chunk.id == chunk_id).values({Chunk.images: Chunk.images - count, counter: counter - count})
    )
    session.execute(
        update(Chunk)
        .where(Chunk.id == chunk_id, Chunk.state.in_((ChunkState.FAILED, ChunkState.CANCELLED)))
        .where(Chunk.failed + Chunk.cancelled == 0)
        .values(state=ChunkState.DONE, error=None)
    )


def cancel_run(session: Session, run_id: int) -> bool:
    """loading | active -> cancelled; claims, heartbeats and commits look at it. False: it was over already."""
    changed = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state.in_((RunState.LOADING, RunState.ACTIVE)))
        .values(state=RunState.CANCELLED, finished_at=now())
        .returning(Run.id)
    )
    return changed.scalar_one_or_none() is not None


def cancel_slice(session: Session, run_id: int) -> int | None:
    """Cancel the pending images of one live chunk of a cancelled run; return how many, None when no chunk is left."""
    cancelled = select(Run.id).where(Run.id == run_id, Run.state == RunState.CANCELLED).exists()
    chunk_id = session.execute(
        select(Chunk.id)
        .where(Chunk.run_id == run_id, Chunk.state.in_(LIVE), cancelled)
        .order_by(Chunk.number)
        .limit(1)
        .with_for_update()
    ).scalar_one_or_none()
    if chunk_id is None:
        return None
    images = session.execute(
        update(Image)
        .where(Image.chunk_id == chunk_id, Image.state == ImageState.PENDING)
        .values(state=ImageState.CANCELLED)
        .returning(Image.id)
    ).all()
    session.execute(
        update(Chunk)
        .where(Chunk.id == chunk_id)
        .values(state=ChunkState.CANCELLED, cancelled=Chunk.cancelled + len(images), lease_until=None)
    )
    return len(images)


def delete_slice(session: Session, run_id: int, size: int = 1000) -> int:
    """Delete some of a cancelled or finished run's images with their results; return how many, 0 when none is left."""
    ids: Sequence[int] = session.execute(select(Image.id).where(Image.run_id == run_id).limit(size)).scalars().all()
    for table in (Instance, Result):
        session.execute(delete(table).where(table.image_id.in_(ids)))
    session.execute(delete(Image).where(Image.id.in_(ids)))
    return len(ids)


def delete_run(session: Session, run_id: int) -> None:
    """Delete what is left of a run without images."""
    for table in (Chunk, Prompt):
        session.execute(delete(table).where(table.run_id == run_id))
    session.execute(delete(Run).where(Run.id == run_id))


def last_chunk_id(session: Session, run_id: int) -> int | None:
    return session.execute(select(func.max(Chunk.id)).where(Chunk.run_id == run_id)).scalar_one()


def repair(session: Session) -> None:
    """Finish active runs in which nothing is live; nothing should ever leave one behind."""
    live = select(Chunk.id).where(Chunk.run_id == Run.id, Chunk.state.in_(LIVE)).exists()
    for run_id in session.execute(select(Run.id).where(Run.state == RunState.ACTIVE, ~live)).scalars():
        finish_run(session, run_id)
