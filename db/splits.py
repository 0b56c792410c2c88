"""Separates the images that were in hand when a process died from their neighbours, until the guilty one is alone.

Cost of one such image in a batch of b: at most 2 (1 + log2 b) deaths. Knows no processes and does not commit.
"""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.chunks import NO_RANGE, add_chunks, change_chunks, finish_run
from db.models import Chunk, ChunkState, Image, ImageState, Run, RunState
from db.older import NOT_READ, drop_results


def split_off(session: Session, chunk_id: int, *, crashed: bool) -> bool:
    """Move the pending images of the range in hand into chunks of their own, halved; fail one that is alone already.

    The chunk is running and locked by the caller's transaction. False: no suspect is known, or the run is not active.
    """
    chunk = session.execute(
        select(Chunk.run_id, Chunk.inflight_first, Chunk.inflight_last).where(Chunk.id == chunk_id)
    ).one()
    if chunk.inflight_first is None:
        return False
    # Locked, so that it is not cancelled meanwhile (new chunks would be left behind) and no other chunk is added.
    active = select(Run.id).where(Run.id == chunk.run_id, Run.state == RunState.ACTIVE)
    if session.execute(active.with_for_update(key_share=True)).first() is None:
        return False
    pending = select(Image.id, Image.row).where(Image.chunk_id == chunk_id, Image.state == ImageState.PENDING)
    rows = session.execute(pending.order_by(Image.row)).all()
    suspects = [image.row for image in rows if chunk.inflight_first <= image.row <= chunk.inflight_last]
    if not suspects:
        return False
    if len(rows) == 1:
        _fail(session, chunk_id, rows[0].id, crashed=crashed)
    else:
        _move(session, chunk.run_id, chunk_id, suspects)
    left = len(rows) - len(suspects)
    innocent = {"attempts": 0, "crashes": 0, "lease_until": None, "not_before": None, "error": None, **NO_RANGE}
    change_chunks(session, Chunk.id == chunk_id, state=ChunkState.PENDING if left else ChunkState.DONE, **innocent)
    finish_run(session, chunk.run_id)
    return True


def _fail(session: Session, chunk_id: int, image_id: int, *, crashed: bool) -> None:
    error_class = "crashed" if crashed else "gave_up"
    error = "its process died twice of it" if crashed else "it held up its process twice, until the lease was over"
    drop_results(session, [image_id])
    values = {"state": ImageState.FAILED, "error_class": error_class, "error": error, **NOT_READ}
    session.execute(update(Image).where(Image.id == image_id).values(values))
    change_chunks(session, Chunk.id == chunk_id, failed=Chunk.failed + 1)


def _move(session: Session, run_id: int, chunk_id: int, suspects: Sequence[int]) -> None:
    """Move the pending images with these row numbers, which are all between their first and their last."""
    half = (len(suspects) + 1) // 2
    parts = [part for part in (suspects[:half], suspects[half:]) if part]
    pending = update(Image).where(Image.chunk_id == chunk_id, Image.state == ImageState.PENDING)
    for part, new_id in zip(parts, add_chunks(session, run_id, [len(part) for part in parts], chunk_id), strict=True):
        session.execute(pending.where(Image.row.between(part[0], part[-1])).values(chunk_id=new_id))
    change_chunks(session, Chunk.id == chunk_id, images=Chunk.images - len(suspects))
