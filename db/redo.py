"""Computing images again: done ones and failed ones go back to pending, in new chunks. Knows no files, never commits.

What was found in an image stays until the new outcome is committed, and is replaced in that transaction; a cancel keeps
it. A pending image that has a width is one of these. It counts as pending, and nobody shows what it had.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from db.chunks import count_out, lock_chunks, lock_run
from db.models import LIVE, Chunk, Image, ImageState, Result, RunState
from db.outcomes import begin_anew, count_results
from db.runs import reopen
from db.values import Redo
from db.views.results import reading_of

ENDED = (ImageState.DONE, ImageState.FAILED)


@dataclass(frozen=True)
class EndedImage:
    """An image that a redo may take, with what its file was like when it was read, if it was."""

    id: int
    row: int
    path: str
    file_size: int | None  # bytes
    file_mtime_ns: int | None


def last_chunk_before(session: Session, run_id: int) -> int:
    """Id of the last chunk that a redo takes images from: the run's last one, so that none is computed twice by it.

    As long as an earlier redo is not over it is that one's, which its chunks remember as their parent: the same command
    again goes on, and takes no image that it has computed already.
    """
    again = (Image.chunk_id == Chunk.id, Image.state == ImageState.PENDING, Image.width.is_not(None))
    going = (Chunk.run_id == run_id, Chunk.state.in_(LIVE), Chunk.parent_id.is_not(None))
    begun = select(func.min(Chunk.parent_id)).where(*going, select(Image.id).where(*again).exists())
    last = select(func.max(Chunk.id)).where(Chunk.run_id == run_id)
    return session.execute(begun).scalar_one() or session.execute(last).scalar_one() or 0


def ended_images(session: Session, run_id: int, which: Redo, rows: range, last_chunk: int) -> list[EndedImage]:
    """The images with these row numbers that a redo may take, in the order of their rows.

    Rows that the source no longer has are left out. For `CHANGED` whoever knows files has to choose among them.
    """
    columns = (Image.id, Image.row, Image.path, Image.file_size, Image.file_mtime_ns)
    of_source = reading_of(session, run_id).rows(gone=False)
    found = select(Result.image_id).where(Result.image_id == Image.id, Result.instances > 0).exists()
    chosen: dict[Redo, tuple[ColumnElement[bool], ...]] = {
        Redo.CHANGED: (Image.state.in_(ENDED), Image.file_size.is_not(None)),
        Redo.FAILED: (Image.state == ImageState.FAILED,),
        Redo.ALL: (Image.state.in_(ENDED),),
        Redo.EMPTY: (Image.state == ImageState.DONE, ~found),
    }
    here = (*of_source, Image.row >= rows.start, Image.row < rows.stop, Image.chunk_id <= last_chunk)
    found_here = session.execute(select(*columns).where(*here, *chosen[which]).order_by(Image.row))
    return [EndedImage(*image) for image in found_here]


def redo_slice(session: Session, run_id: int, ids: Sequence[int], last_chunk: int) -> int:
    """Move those of these images that are done or failed into new chunks, as pending; return how many that were.

    At most as many as one statement may name. Moves nothing unless the run is active or done.
    """
    ended = (Image.id.in_(ids), Image.state.in_(ENDED), Image.chunk_id <= last_chunk)
    chunks = lock_chunks(session, Chunk.id.in_(select(Image.chunk_id).where(*ended)))
    chosen = select(Image.id, Image.chunk_id, Image.state).where(*ended, Image.chunk_id.in_(chunks)).order_by(Image.row)
    images = session.execute(chosen.with_for_update()).all()
    found = lock_run(session, run_id)
    if not images or found is None or found.state not in (RunState.ACTIVE, RunState.DONE):
        return 0
    moved = [image.id for image in images]
    leave = count_results(session, Image.id.in_(moved), Image.state == ImageState.DONE)
    for image in images:
        leave.setdefault(image.chunk_id, Counter()).update(images=1, failed=image.state == ImageState.FAILED)
    begin_anew(session, run_id, found.chunk_size, moved, last_chunk)
    count_out(session, leave)
    reopen(session, run_id)
    return len(moved)
