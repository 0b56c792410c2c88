"""Images whose rows an edited source no longer has: they are no longer computed, retried or counted as failed.

Such an image leaves its chunk as `cancelled`, unless it has results, which it keeps. So no claim, no retry and no count
of failures meets it. When a later load sees its row again, `db.intake` makes it pending again. Knows no CSV, and never
commits.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from db.bulk import among
from db.chunks import (
    ATTEMPT_BACK,
    DONE_IMAGES,
    PENDING_IMAGES,
    add_counts,
    change_chunks,
    lock_run,
    rowcount,
    subtract_counts,
)
from db.conditions import HAS_RESULTS
from db.intake import LoadCancelled
from db.models import Chunk, Image, Run
from db.outcomes import keep_results
from db.runs import next_chunks
from db.slices import Place, Slice
from db.states import STOPPING, ChunkState, ImageState
from db.transitions import Transition

_NOT_DONE = (ImageState.PENDING, ImageState.FAILED, ImageState.CANCELLED)
_IMAGES_NOT_DONE = Chunk.images - DONE_IMAGES


def has_gone_rows(session: Session, run_id: int) -> bool:
    """Whether the run has rows that the current load, which has read the source to its end, did not bring."""
    return bool(session.execute(select(Run.images > Run.source_rows).where(Run.id == run_id)).scalar())


def drop_gone_slice(session: Session, run_id: int, place: Place, rows: int) -> Slice:
    """Cancel what is gone and not done in the next chunks, which have about `rows` images, at most, that are not done.

    The current load has read the source to its end. A chunk that a worker holds is taken back if such an image of it is
    pending, as the worker would compute it: the worker loses the batch in hand. Raises `LoadCancelled`.
    """
    chunks = next_chunks(session, run_id, place, rows, _IMAGES_NOT_DONE, _IMAGES_NOT_DONE > 0)
    run = lock_run(session, run_id)
    if run is None or run.state in STOPPING:
        raise LoadCancelled
    this_load = select(Run.load).where(Run.id == run_id).scalar_subquery()
    of_chunks = among(session, Image.chunk_id, chunks.ids)
    gone = (of_chunks, Image.state.in_(_NOT_DONE), Image.load < this_load)
    leaving, had_pending = _count(session, *gone)
    if had_pending and (kept := keep_results(session, *gone)):
        add_counts(session, kept)
    if leaving:
        nothing = {"state": ImageState.CANCELLED, "chunk_id": None, "error_class": None, "error": None}
        rowcount(session, update(Image).where(*gone).values(nothing))
        subtract_counts(session, leaving)
    _end_chunks(session, had_pending)
    return Slice(sum(count["images"] for count in leaving.values()), chunks.place)


def _count(session: Session, *gone: ColumnElement[bool]) -> tuple[dict[int, Counter[str]], list[int]]:
    """What the images that `gone` chooses take from the counters of their chunks when they leave them, by chunk id.

    Images that have results do not leave. Also returns the ids of the chunks in which some image is pending.
    """
    counted = select(Image.chunk_id, Image.state, HAS_RESULTS.label("stays"), func.count().label("images"))
    leaving: defaultdict[int, Counter[str]] = defaultdict(Counter)
    pending = set()
    for group in session.execute(counted.where(*gone).group_by(Image.chunk_id, Image.state, HAS_RESULTS)):
        if group.state == ImageState.PENDING:
            pending.add(group.chunk_id)
        if not group.stays:
            ended = {} if group.state == ImageState.PENDING else {group.state: group.images}  # named like the counters
            leaving[group.chunk_id].update(images=group.images, **ended)
    return leaving, sorted(pending)


def _end_chunks(session: Session, chunk_ids: Sequence[int]) -> None:
    """Take these chunks back from workers; those of which nothing is pending any more are done."""
    if chunk_ids:
        these = among(session, Chunk.id, chunk_ids)
        change_chunks(session, Transition.CORRECT, these, Chunk.state == ChunkState.RUNNING, attempts=ATTEMPT_BACK)
        change_chunks(session, Transition.EMPTY, these, PENDING_IMAGES == 0, error=None)
