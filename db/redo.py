"""Computing images again: done ones and failed ones go back to pending, in new chunks. Knows no files, never commits.

What was found in an image stays until the new outcome is committed, and is replaced in that transaction; a cancel keeps
it. A pending image that has a width is one of these. It counts as pending, and nobody shows what it had.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.orm import Session

from db.choices import Redo
from db.chunks import add_chunks, rowcount, take_out
from db.models import LIVE, Chunk, Image, ImageState, Result, Run, RunState
from db.runs import reopen
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
    # Locked in the order chunk, image, run, as workers do.
    chunks = select(Chunk.id).where(Chunk.id.in_(select(Image.chunk_id).where(*ended)))
    session.execute(chunks.order_by(Chunk.id).with_for_update())
    columns = (Image.id, Image.chunk_id, Image.state, Image.warning.is_not(None).label("warned"))
    images = session.execute(select(*columns).where(*ended).order_by(Image.row).with_for_update()).all()
    run = select(Run.chunk_size, Run.state).where(Run.id == run_id).with_for_update(key_share=True)
    found = session.execute(run).one_or_none()
    if not images or found is None or found.state not in (RunState.ACTIVE, RunState.DONE):
        return 0
    moved = [image.id for image in images]
    parts = [moved[first : first + found.chunk_size] for first in range(0, len(moved), found.chunk_size)]
    new_ids = add_chunks(session, run_id, [len(part) for part in parts], last_chunk)
    for part, chunk_id in zip(parts, new_ids, strict=True):
        values = {"state": ImageState.PENDING, "chunk_id": chunk_id, "error_class": None, "error": None}
        rowcount(session, update(Image).where(Image.id.in_(part)).values(values))
    take_out(session, _counted(session, images))
    reopen(session, run_id)
    return len(moved)


def _counted(session: Session, images: Sequence[Any]) -> dict[int, Counter[str]]:
    """What these images are in the counters of their chunks, by chunk id."""
    per_image = (
        select(
            Result.image_id,
            func.sum(Result.instances).label("instances"),
            func.max(case((Result.capped, 1), else_=0)).label("capped"),
        )
        .where(Result.image_id.in_([image.id for image in images]))
        .group_by(Result.image_id)
    )
    results = {row.image_id: (int(row.instances), row.capped) for row in session.execute(per_image)}
    counts: dict[int, Counter[str]] = {}
    for image in images:
        count = counts.setdefault(image.chunk_id, Counter())
        count["images"] += 1
        if image.state == ImageState.FAILED:
            count["failed"] += 1
            continue
        instances, capped = results.get(image.id, (0, 0))
        count.update(segmented=instances > 0, empty=instances == 0, instances=instances)
        count.update(capped=capped, warned=image.warned)
    return counts
