"""Rows that repeat an earlier row of their run: found at the end of a load, when they leave their chunks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from db.chunks import lock_chunks_of, subtract_counts
from db.intake import IMAGES, LoadCancelled, LoadTaken
from db.models import Image, Run
from db.slices import SLICE_ROWS
from db.states import ImageState, RunState


@dataclass(frozen=True)
class Repeated:
    """A row with the same path, prompts and boxes as an earlier row, whose id is `first_id`."""

    image_id: int
    chunk_id: int
    first_id: int


def repeated_rows(session: Session, run_id: int) -> Iterator[Repeated]:
    """Rows of the current load whose path, prompts and boxes an earlier row has, in the order of their numbers."""
    start = session.execute(select(Run.load_start).where(Run.id == run_id)).scalar_one_or_none()
    if start is None:
        raise LoadCancelled
    of_run = select(Image.path).where(Image.run_id == run_id)
    # Rows of earlier loads were searched already, so a later load looks at its own paths only. The first load counts
    # all paths in one sorted pass (SQLite does so in their index) and then reads only rows whose path comes twice.
    paths = of_run.where(Image.row > start) if start else of_run.group_by(Image.path).having(func.count() > 1)
    ordered = (
        select(
            Image.id,
            Image.row,
            Image.state,
            Image.chunk_id,
            func.first_value(Image.id)
            .over(partition_by=(Image.path, Image.prompts, Image.boxes), order_by=Image.row)
            .label("first_id"),
        )
        .where(Image.run_id == run_id, Image.path.in_(paths))
        .where(Image.state.not_in((ImageState.DUPLICATE, ImageState.REJECTED)))
        .subquery()
    )
    late = (
        select(ordered.c.id, ordered.c.chunk_id, ordered.c.first_id)
        .where(ordered.c.id != ordered.c.first_id, ordered.c.row > start, ordered.c.state == ImageState.PENDING)
        .order_by(ordered.c.row)  # neighbours are in the same chunk, so that a slice of them touches few chunks
    )
    for row in session.execute(late.execution_options(yield_per=SLICE_ROWS)):
        yield Repeated(*row)


def mark_duplicates(session: Session, run_id: int, repeated: Sequence[Repeated]) -> None:
    """pending -> duplicate for one slice; the rows leave their chunks.

    Raises `LoadCancelled` if the run is no longer loading, `LoadTaken` if another process has marked some of the rows.
    """
    lock_chunks_of(session, {row.chunk_id for row in repeated})
    # This UPDATE locks the run as well. While it is locked and loading, no other process cancels these rows.
    counted = update(Run).where(Run.id == run_id, Run.state == RunState.LOADING)
    if session.execute(counted.values(duplicates=Run.duplicates + len(repeated)).returning(Run.id)).first() is None:
        raise LoadCancelled
    mark = (
        update(IMAGES)
        .where(Image.id == bindparam("late"), Image.state == ImageState.PENDING)
        .values(state=ImageState.DUPLICATE, chunk_id=None, same_as=bindparam("first"))
    )
    late = [{"late": row.image_id, "first": row.first_id} for row in repeated]
    if session.connection().execute(mark, late).rowcount != len(late):
        raise LoadTaken
    left = Counter(row.chunk_id for row in repeated)
    subtract_counts(session, {chunk_id: Counter(images=count) for chunk_id, count in left.items()})
