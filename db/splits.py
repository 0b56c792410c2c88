"""Separates the images that were in hand when a process died from their neighbours, until the guilty one is alone.

Cost of one such image in a batch of b: at most 2 (1 + log2 b) deaths. Knows no processes and does not commit.
"""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.chunks import HeldChunk, Transition, add_chunks, change_chunks, finish_run, lock_run
from db.models import Chunk, Image, ImageState, RunState
from db.outcomes import fail_unread


def split_off(session: Session, chunk: HeldChunk, *, crashed: bool) -> bool:
    """Move the pending images of the range in hand into chunks of their own, halved; fail one that is alone already.

    False: no suspect is known, or the run is not active.
    """
    if chunk.inflight_first is None or chunk.inflight_last is None:
        return False
    # Locked, so that it is not cancelled meanwhile (new chunks would be left behind) and no other chunk is added.
    run = lock_run(session, chunk.run_id)
    if run is None or run.state != RunState.ACTIVE:
        return False
    pending = select(Image.id, Image.row).where(Image.chunk_id == chunk.id, Image.state == ImageState.PENDING)
    rows = session.execute(pending.order_by(Image.row)).all()
    suspects = [image.row for image in rows if chunk.inflight_first <= image.row <= chunk.inflight_last]
    if not suspects:
        return False
    if len(rows) == 1:
        _fail(session, rows[0].id, crashed=crashed)
        counts = {"failed": 1}
    else:
        _move(session, chunk, suspects)
        counts = {"images": -len(suspects)}
    transition = Transition.SPLIT if len(rows) > len(suspects) else Transition.SPLIT_WHOLLY
    innocent = {"attempts": 0, "crashes": 0, "not_before": None, "error": None}
    change_chunks(session, transition, Chunk.id == chunk.id, counts=counts, **innocent)
    finish_run(session, chunk.run_id)
    return True


def _fail(session: Session, image_id: int, *, crashed: bool) -> None:
    error_class = "crashed" if crashed else "gave_up"
    error = "its process died twice of it" if crashed else "it held up its process twice, until the lease was over"
    fail_unread(session, error_class, error, Image.id == image_id)


def _move(session: Session, chunk: HeldChunk, suspects: Sequence[int]) -> None:
    """Move the pending images with these row numbers, which are all between their first and their last."""
    half = (len(suspects) + 1) // 2
    parts = [part for part in (suspects[:half], suspects[half:]) if part]
    pending = update(Image).where(Image.chunk_id == chunk.id, Image.state == ImageState.PENDING)
    new_ids = add_chunks(session, chunk.run_id, [len(part) for part in parts], chunk.id)
    for part, new_id in zip(parts, new_ids, strict=True):
        session.execute(pending.where(Image.row.between(part[0], part[-1])).values(chunk_id=new_id))
