"""Lets images be computed again: done and failed images become pending in new chunks. Knows no files, never commits.

The old results of such an image stay until its new outcome is committed, and are deleted in that transaction. If the
run is cancelled, the image keeps them. A pending image that has a width is one of these: it counts as pending, and its
old results are not shown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from db.chunks import lock_chunks, lock_run, subtract_counts
from db.conditions import OF_OWN_PROMPT, TO_REDO
from db.models import Chunk, Image, Result
from db.outcomes import begin_anew, count_results
from db.runs import cut, reopen
from db.states import LIVE, ImageState, RunState
from db.values import Redo
from db.views.rows import reading_of

ENDED = (ImageState.DONE, ImageState.FAILED)


@dataclass(frozen=True)
class EndedImage:
    """An image that a redo may take, with size and time of its file when it was read; None if it never was."""

    id: int
    row: int
    path: str
    file_size: int | None  # bytes
    file_mtime_ns: int | None  # nanoseconds since 1970


def last_chunk_before(session: Session, run_id: int) -> int:
    """Id of the last chunk that a redo takes images from: the run's last chunk. So it never takes its own new chunks.

    While an earlier redo is not over, its last chunk is returned, which its chunks have as their parent. So the same
    command, given again, continues that redo and takes no image that the redo has computed already.
    """
    again = (Image.chunk_id == Chunk.id, TO_REDO)
    going = (Chunk.run_id == run_id, Chunk.state.in_(LIVE), Chunk.parent_id.is_not(None))
    begun = select(func.min(Chunk.parent_id)).where(*going, select(Image.id).where(*again).exists())
    last = select(func.max(Chunk.id)).where(Chunk.run_id == run_id)
    return session.execute(begun).scalar_one() or session.execute(last).scalar_one() or 0


def ended_images(session: Session, run_id: int, which: Redo, rows: range, last_chunk: int) -> list[EndedImage]:
    """The images with these row numbers that a redo may take, in the order of their rows.

    Rows that the source no longer has are left out. For `CHANGED` the caller has to look at the files and choose.
    """
    columns = (Image.id, Image.row, Image.path, Image.file_size, Image.file_mtime_ns)
    of_source = reading_of(session, run_id).rows(gone=False)
    results = select(Result.image_id).where(Result.image_id == Image.id, OF_OWN_PROMPT)
    chosen: dict[Redo, tuple[ColumnElement[bool], ...]] = {
        Redo.CHANGED: (Image.state.in_(ENDED), Image.file_size.is_not(None)),
        Redo.FAILED: (Image.state == ImageState.FAILED,),
        Redo.ALL: (Image.state.in_(ENDED),),
        Redo.EMPTY: (Image.state == ImageState.DONE, ~results.where(Result.instances > 0).exists()),
        Redo.CAPPED: (Image.state == ImageState.DONE, results.where(Result.capped).exists()),
    }
    here = (*of_source, Image.row >= rows.start, Image.row < rows.stop, Image.chunk_id <= last_chunk)
    found_here = session.execute(select(*columns).where(*here, *chosen[which]).order_by(Image.row))
    return [EndedImage(*image) for image in found_here]


def redo_slice(session: Session, run_id: int, ids: Sequence[int], last_chunk: int, tiling: str | None = None) -> int:
    """Make those of these images that are done or failed pending again in new chunks; return how many these are.

    With `tiling` they are cut in this way from now on.

    Takes at most `db.bulk.NAMED_AT_ONCE` ids. Does nothing unless the run is active or done, and settled.
    """
    ended = (Image.id.in_(ids), Image.state.in_(ENDED), Image.chunk_id <= last_chunk)
    chunks = lock_chunks(session, Chunk.id.in_(select(Image.chunk_id).where(*ended)))
    chosen = select(Image.id, Image.chunk_id, Image.state).where(*ended, Image.chunk_id.in_(chunks)).order_by(Image.row)
    images = session.execute(chosen.with_for_update()).all()
    found = lock_run(session, run_id)
    if not images or found is None or found.state not in (RunState.ACTIVE, RunState.DONE) or found.unsettled:
        return 0
    moved = [image.id for image in images]
    leave = count_results(session, Image.id.in_(moved), Image.state == ImageState.DONE)
    for image in images:
        leave.setdefault(image.chunk_id, Counter()).update(images=1, failed=image.state == ImageState.FAILED)
    begin_anew(session, run_id, found.chunk_size, moved, last_chunk, **cut(tiling))
    subtract_counts(session, leave)
    reopen(session, run_id)
    return len(moved)
