"""What an operator does to a whole run: retry, cancel, delete, in slices. Functions never commit; knows no Celery.

A pass goes through the run's chunks in the order of their numbers, which never change, and looks at each chunk once. So
its time grows in proportion to the run. The counters of a chunk tell how many of its images the pass would change.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from db.bulk import NAMED_AT_ONCE, among, named_at_once
from db.chunks import (
    DONE_IMAGES,
    PENDING_IMAGES,
    add_counts,
    change_chunks,
    finish_run,
    lock_chunks,
    lock_run,
    rowcount,
    subtract_counts,
)
from db.conditions import INCOMPLETE
from db.models import Chunk, Image, Instance, Prompt, Result, Run
from db.outcomes import begin_anew, cancel_images, count_results
from db.slices import Place, Slice
from db.states import LIVE, ImageState, RunState
from db.transitions import Transition


@dataclass(frozen=True)
class RetryFilter:
    """Which failed images to try again. Without an error class and a chunk number: cancelled images as well.

    Without an error class also done images that lack results of prompts that were added later.
    """

    error_class: str | None = None
    chunk_number: int | None = None
    tiling: str | None = None  # how the images are cut from now on; None: as before
    last_chunk_id: int | None = None  # leaves out later chunks, whose images were retried already and failed again

    @property
    def states(self) -> tuple[ImageState, ...]:
        """The states of the images to try again."""
        chosen = self.error_class is not None or self.chunk_number is not None
        return (ImageState.FAILED,) if chosen else (ImageState.FAILED, ImageState.CANCELLED)

    @property
    def images(self) -> SQLColumnExpression[int]:
        """How many images of a chunk a retry takes, those of any error class."""
        ended = Chunk.failed if len(self.states) == 1 else Chunk.failed + Chunk.cancelled
        return ended if self.error_class is not None else ended + Chunk.incomplete


def run_id_of(session: Session, name: str) -> int | None:
    """The id of the run of this name, or None."""
    return session.execute(select(Run.id).where(Run.name == name)).scalar_one_or_none()


def state_of(session: Session, run_id: int) -> str | None:
    """The run's state; None if it was deleted."""
    return session.execute(select(Run.state).where(Run.id == run_id)).scalar_one_or_none()


def stopping_runs(session: Session) -> list[tuple[int, str]]:
    """(id, state) of runs whose cancel or delete is not finished."""
    stopping = Run.state.in_((RunState.CANCELLING, RunState.DELETING))
    return [(row.id, row.state) for row in session.execute(select(Run.id, Run.state).where(stopping).order_by(Run.id))]


def reopen(session: Session, run_id: int) -> None:
    """done | cancelled -> active, so that retried images can be claimed."""
    session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state.in_((RunState.DONE, RunState.CANCELLED)))
        .values(state=RunState.ACTIVE, finished_at=None)
    )


def retryable_images(session: Session, run_id: int, which: RetryFilter) -> int:
    """How many images a retry would take. Rejected rows are not among them: they have no chunk."""
    counted = select(func.coalesce(func.sum(which.images), 0)).where(Chunk.run_id == run_id, *_chosen_chunks(which))
    if which.error_class is not None:
        of_class = (Image.run_id == run_id, Image.error_class == which.error_class, Image.state == ImageState.FAILED)
        counted = (
            select(func.count())
            .select_from(Image)
            .join(Chunk, Chunk.id == Image.chunk_id)
            .where(*of_class, *_chosen_chunks(which))
        )
    return int(session.execute(counted).scalar_one())


def retry_slice(session: Session, run_id: int, place: Place, rows: int, which: RetryFilter) -> Slice:
    """Make the next images that `which` chooses, about `rows` at most, pending again in new chunks.

    Does nothing unless the run is active or done, and settled.
    """
    chunks = next_chunks(session, run_id, place, rows, which.images, *_chosen_chunks(which))
    images = _retryable_of(session, chunks.ids, which)
    # The lock keeps others from cancelling the run now, and a second retry from giving the same chunk numbers.
    found = lock_run(session, run_id)
    if found is None or found.state not in (RunState.ACTIVE, RunState.DONE) or found.unsettled:
        return Slice(0, None)
    if images:
        again = [image.id for image in images if image.state != ImageState.DONE]
        added = [image.id for image in images if image.state == ImageState.DONE]
        left = count_results(session, among(session, Image.id, added)) if added else {}
        for image in images:
            ended = {} if image.state == ImageState.DONE else {image.state: 1}  # these are named like the counters
            left.setdefault(image.chunk_id, Counter()).update(images=1, **ended)
        begin_anew(session, run_id, found.chunk_size, again, **cut(which.tiling))
        # The parent says that these images may be taken up although they are done.
        begin_anew(session, run_id, found.chunk_size, added, which.last_chunk_id or max(chunks.ids), adds=True)
        subtract_counts(session, left)
        reopen(session, run_id)
    return Slice(len(images), chunks.place)


def cut(tiling: str | None) -> dict[str, Any]:
    """What `begin_anew` writes of images that are cut in this way from now on; nothing for None."""
    return {} if tiling is None else {"tiling": tiling}


def _chosen_chunks(which: RetryFilter) -> tuple[ColumnElement[bool], ...]:
    where: tuple[ColumnElement[bool], ...] = (which.images > 0,)
    if which.last_chunk_id is not None:
        where += (Chunk.id <= which.last_chunk_id,)
    if which.chunk_number is not None:
        where += (Chunk.number == which.chunk_number,)
    return where


def _retryable_of(session: Session, chunk_ids: Sequence[int], which: RetryFilter) -> Sequence[Any]:
    """The images of these chunks that a retry takes, locked, in the order of their rows."""
    chosen: ColumnElement[bool] = Image.state.in_(which.states)
    if which.error_class is not None:
        chosen = and_(chosen, Image.error_class == which.error_class)
    else:
        chosen = or_(chosen, INCOMPLETE)
    of_chunks = select(Image.id, Image.chunk_id, Image.state).where(among(session, Image.chunk_id, chunk_ids), chosen)
    return session.execute(of_chunks.order_by(Image.row).with_for_update()).all()


def cancel_run(session: Session, run_id: int) -> bool:
    """loading | active -> cancelling, after which claims, heartbeats and commits fail. False: the run was over."""
    changed = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state.in_((RunState.LOADING, RunState.ACTIVE)))
        .values(state=RunState.CANCELLING)
        .returning(Run.id)
    )
    return changed.scalar_one_or_none() is not None


def done_images(session: Session, run_id: int) -> int:
    """How many images of the run are done, by the counters of its chunks."""
    done = select(func.coalesce(func.sum(DONE_IMAGES), 0)).where(Chunk.run_id == run_id)
    return int(session.execute(done).scalar_one())


def pending_images(session: Session, run_id: int) -> int:
    """How many images of the run are pending, by the counters of its chunks."""
    pending = select(func.coalesce(func.sum(PENDING_IMAGES), 0)).where(Chunk.run_id == run_id)
    return int(session.execute(pending).scalar_one())


def cancel_slice(session: Session, run_id: int, place: Place, rows: int) -> Slice:
    """Cancel the pending images, about `rows` at most, of the next live chunks of a run that is being cancelled.

    The last slice ends the run: cancelling -> cancelled. Two processes may do this at once; a run that is over is left
    as it is.
    """
    if state_of(session, run_id) != RunState.CANCELLING:
        return Slice(0, None)
    live = next_chunks(session, run_id, place, rows, PENDING_IMAGES, Chunk.state.in_(LIVE))
    cancelled, kept = cancel_images(session, live.ids)
    if kept:
        add_counts(session, kept)
    change_chunks(session, Transition.CANCEL, Chunk.id.in_(live.ids), counts={"cancelled": PENDING_IMAGES})
    if live.is_last:
        finish_run(session, run_id)
    return Slice(cancelled, live.place)


def begin_delete(session: Session, run_id: int) -> None:
    """Any state -> deleting. The only thing that can be done with such a run is to finish its deletion."""
    session.execute(update(Run).where(Run.id == run_id).values(state=RunState.DELETING))


def delete_slice(session: Session, run_id: int, place: Place, rows: int) -> Slice:
    """Delete about `rows` rows, at most, of a run that is being deleted, with their results; the run itself last.

    The counters of the run always agree with the rows that are left. Two processes may do this at once.
    """
    if state_of(session, run_id) != RunState.DELETING:
        return Slice(0, None)
    chunks = next_chunks(session, run_id, place, rows, Chunk.images)
    if chunks.is_last and not chunks.ids:
        return _delete_without_chunk(session, run_id, place, rows)
    ids = session.execute(select(Image.id).where(among(session, Image.chunk_id, chunks.ids))).scalars().all()
    states = _delete_images(session, ids)
    rowcount(session, delete(Chunk).where(Chunk.id.in_(chunks.ids)))
    _subtract_from_run(session, run_id, states)
    return Slice(states.total(), Place(chunks.reached))


def _delete_without_chunk(session: Session, run_id: int, place: Place, rows: int) -> Slice:
    """Delete what belongs to no chunk: duplicates and rejected rows, then prompts, then the run."""
    lock_run(session, run_id)
    left = select(Image.id, Image.row).where(Image.run_id == run_id, Image.row > place.row)
    images = session.execute(left.order_by(Image.row).limit(rows)).all()
    if images:
        states = _delete_images(session, [image.id for image in images])
        _subtract_from_run(session, run_id, states)
        return Slice(states.total(), Place(place.chunk, images[-1].row))
    prompts = session.execute(select(Prompt.id).where(Prompt.run_id == run_id).limit(rows)).scalars().all()
    if prompts:
        for ids in named_at_once(prompts):
            rowcount(session, delete(Prompt).where(Prompt.id.in_(ids)))
        return Slice(0, place)
    rowcount(session, delete(Run).where(Run.id == run_id))
    return Slice(0, None)


def _delete_images(session: Session, ids: Sequence[int]) -> Counter[str]:
    """Delete these images with their results; return how many there were, by state."""
    states = Counter[str]()
    for part in named_at_once(ids):
        for table in (Instance, Result):
            rowcount(session, delete(table).where(among(session, table.image_id, part)))
        deleted = delete(Image).where(Image.id.in_(part)).returning(Image.state)
        states.update(session.execute(deleted, execution_options={"synchronize_session": False}).scalars())
    return states


def _subtract_from_run(session: Session, run_id: int, states: Counter[str]) -> None:
    """Subtract deleted images, counted by state, from the counters of the run."""
    session.execute(
        update(Run)
        .where(Run.id == run_id)
        .values(
            images=Run.images - states.total(),
            duplicates=Run.duplicates - states[ImageState.DUPLICATE],
            rejected=Run.rejected - states[ImageState.REJECTED],
        )
    )


@dataclass(frozen=True)
class ChunksInPass:
    """The next chunks of a pass, locked. The pass has looked at all chunks with numbers up to `reached`."""

    ids: Sequence[int]
    reached: int
    is_last: bool

    @property
    def place(self) -> Place | None:
        """Where a pass over chunks goes on after these."""
        return None if self.is_last else Place(self.reached)


def next_chunks(
    session: Session,
    run_id: int,
    place: Place,
    rows: int,
    images: SQLColumnExpression[int],
    *where: ColumnElement[bool],
) -> ChunksInPass:
    """Lock the next chunks that `where` chooses: as many as have at most `rows` images together, but at least one.

    `images` is the expression that counts the images of a chunk that the pass would change. One call looks at no more
    chunk numbers than one statement may name, so it may find no chunk although the pass is not at its end.
    """
    of_run = (Chunk.run_id == run_id, Chunk.number > place.chunk)
    last = session.execute(select(func.max(Chunk.number)).where(Chunk.run_id == run_id)).scalar_one() or 0
    reached = place.chunk + NAMED_AT_ONCE
    seen = select(Chunk.number, images).where(*of_run, Chunk.number <= reached, *where).order_by(Chunk.number)
    taken, last_taken = 0, 0
    for number, count in session.execute(seen):
        if last_taken and taken + count > rows:
            reached = last_taken
            break
        taken, last_taken = taken + count, number
    # The chunks were read without a lock. Locking them waits for other transactions and checks `where` again.
    locked = lock_chunks(session, *of_run, Chunk.number <= reached, *where)
    return ChunksInPass(locked, reached, is_last=reached >= last)


def last_chunk_id(session: Session, run_id: int) -> int | None:
    """The highest id of the run's chunks; None if it has no chunk."""
    return session.execute(select(func.max(Chunk.id)).where(Chunk.run_id == run_id)).scalar_one()


def repair(session: Session) -> None:
    """Finish active runs without a live chunk. There should be none; this is a second line of defence."""
    live = select(Chunk.id).where(Chunk.run_id == Run.id, Chunk.state.in_(LIVE)).exists()
    for run_id in session.execute(select(Run.id).where(Run.state == RunState.ACTIVE, ~live).order_by(Run.id)).scalars():
        finish_run(session, run_id)
