"""How far the chunks of an unfinished run are, and which of their images are done. Changes nothing.

`sam3-run` reads this to write masks and the preview while its run goes on.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from db.chunks import DONE_IMAGES
from db.models import Chunk, Image
from db.states import LIVE, ImageState


@dataclass(frozen=True)
class ChunkSoFar:
    """How far one chunk is."""

    id: int
    number: int
    done: int  # number of done images
    over: bool  # it is not live, so no image of it changes any more


def next_chunks(session: Session, run_id: int, number: int, most: int) -> list[ChunkSoFar]:
    """The run's next chunks after the number `number`, at most `most`."""
    return _chunks(session, (Chunk.run_id == run_id, Chunk.number > number), most)


def chunks_again(session: Session, ids: Collection[int]) -> list[ChunkSoFar]:
    """These chunks as they are now, in the order of their numbers; those of a deleted run are left out."""
    return _chunks(session, (Chunk.id.in_(ids),), len(ids)) if ids else []


def done_rows(session: Session, chunk_id: int) -> list[int]:
    """The row numbers of a chunk's done images, in ascending order."""
    rows = select(Image.row).where(Image.chunk_id == chunk_id, Image.state == ImageState.DONE).order_by(Image.row)
    return list(session.execute(rows).scalars())


def _chunks(session: Session, where: tuple[ColumnElement[bool], ...], most: int) -> list[ChunkSoFar]:
    rows = (
        select(Chunk.id, Chunk.number, DONE_IMAGES.label("done"), Chunk.state)
        .where(*where)
        .order_by(Chunk.number)
        .limit(most)
    )
    return [ChunkSoFar(row.id, row.number, row.done, row.state not in LIVE) for row in session.execute(rows)]
