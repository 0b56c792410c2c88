"""Splits off the images that were in hand when a process died, until the image that kills it is alone in a chunk.

One such image in a batch of b images costs at most 2 (1 + log2 b) crashes. Knows no processes, and never commits.
"""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.chunks import HeldChunk, add_chunks, change_chunks, finish_run, lock_run
from db.models import Chunk, Image
from db.outcomes import fail_unread
from db.states import ImageState, RunState
from db.transitions import Transition


def split_off(session: Session, chunk: HeldChunk, *, crashed: bool) -> bool:
    """Move the pending images that were in hand into two new chunks, one half each; fail an image that is alone.

    `crashed`: its process died; else its lease was over. False: no row in hand is known, or the run is not active.
    """
    if chunk.inflight_first is None or chunk.inflight_last is None:
        return False
    # The lock keeps others from cancelling the run, which would miss the new chunks, and from adding chunks to it.
    run = lock_run(session, chunk.run_id)
    if run is None or run.state != RunState.ACTIVE:
        return False
    pending = select(Image.id, Image.row).where(Image.chunk_id == chunk.id, Image.state == ImageState.PENDING)
    rows = session.execute(pending.order_by(Image.row)).all()
    suspects = [image.row for image in rows if chunk.inflight_first <= image.row <= chunk.inflight_last]
    if not suspects:
        return False
    if len(rows) == 1:
        counts = dict(_fail(session, rows[0].id, crashed=crashed))
    else:
        _move(session, chunk, suspects)
        counts = {"images": -len(suspects)}
    transition = Transition.SPLIT if len(rows) > len(suspects) else Transition.SPLIT_WHOLLY
    no_failures = {"attempts": 0, "crashes": 0, "not_before": None, "error": None}
    change_chunks(session, transition, Chunk.id == chunk.id, counts=counts, **no_failures)
    finish_run(session, chunk.run_id)
    return True


def _fail(session: Session, image_id: int, *, crashed: bool) -> Counter[str]:
    error_class = "crashed" if crashed else "gave_up"
    if crashed:
        error = "the worker process died twice while it had this image in hand"
    else:
        error = "the worker made no progress with this image twice, until its lease was over"
    return fail_unread(session, error_class, error, Image.id == image_id)


def _move(session: Session, chunk: HeldChunk, suspects: Sequence[int]) -> None:
    """Move the pending images with these row numbers: all pending ones between the first and the last of them."""
    half = (len(suspects) + 1) // 2
    parts = [part for part in (suspects[:half], suspects[half:]) if part]
    pending = update(Image).where(Image.chunk_id == chunk.id, Image.state == ImageState.PENDING)
    new_ids = add_chunks(session, chunk.run_id, [len(part) for part in parts], chunk.id)
    for part, new_id in zip(parts, new_ids, strict=True):
        session.execute(pending.where(Image.row.between(part[0], part[-1])).values(chunk_id=new_id))
