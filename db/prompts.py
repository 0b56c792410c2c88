"""Adds prompts to a run that has results, and drops some. Takes the caller's session and never commits.

First the prompts change, in one short transaction: from then on a claim gives the new ones. Then a pass goes through
the run in slices, while workers go on. Done images that lack a result of a prompt become pending in new chunks and keep
their results, and counters are counted again without dropped prompts. Until the pass is over the run is `unsettled`, so
that a command or a reconciler can do later what is left. Images with prompts of their own stay as they are.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.orm import Session

from db.bulk import among
from db.chunks import (
    ATTEMPT_BACK,
    DONE_IMAGES,
    change_chunks,
    count_anew,
    in_order,
    lock_run,
    require_none_running,
    rowcount,
)
from db.conditions import INCOMPLETE
from db.models import Chunk, Image, Prompt, Result, Run
from db.outcomes import begin_anew, count_results
from db.prompt_rows import known_prompts, prompt_row
from db.runs import last_chunk_id, next_chunks, reopen
from db.slices import Place, Slice
from db.states import ChunkState, ImageState, RunState
from db.transitions import Transition

SETTLES = (RunState.ACTIVE, RunState.DONE, RunState.CANCELLED)


def change_prompts(session: Session, run_id: int, add: Collection[str], drop: Collection[str]) -> bool:
    """Give the run's images these prompts too, and no longer those of `drop`; false if nothing had to be changed.

    Chunks that are being worked on are taken back, since their workers do not know the new prompts: they lose the batch
    in hand. Does nothing unless the run is active or over. Raises `ClaimedMeanwhile`.
    """
    running = in_order(Chunk.run_id == run_id, Chunk.state == ChunkState.RUNNING)
    change_chunks(session, Transition.CORRECT, running, attempts=ATTEMPT_BACK)
    found = lock_run(session, run_id)
    if found is None or found.state not in SETTLES:
        return False
    # A claim locks the run too, before it reads the prompts. So one that is not seen here will read the new ones.
    require_none_running(session, run_id)
    changed = _give(session, run_id, add) + _take(session, run_id, drop)
    if changed:
        begins = {"unsettled": True, "prompt_changes": Run.prompt_changes + 1}
        session.execute(update(Run).where(Run.id == run_id).values(begins))
    return changed > 0


def _give(session: Session, run_id: int, add: Collection[str]) -> int:
    """Give these prompts to every image; return how many were not given before."""
    known = known_prompts(session, run_id, list(add)) if add else {}
    given = _set(session, known.values(), every_image=True, dropped=False)
    new = [prompt_row(run_id, typed, every_image=True) for typed in add if typed not in known]
    if new:
        session.execute(insert(Prompt).values(changed=True), new)
    return given + len(new)


def _take(session: Session, run_id: int, drop: Collection[str]) -> int:
    """Drop these prompts; return how many had not been dropped."""
    known = known_prompts(session, run_id, list(drop)) if drop else {}
    # If rows bring prompts of their own, some row may have this one.
    by_row = session.execute(select(Run.prompt_column).where(Run.id == run_id)).scalar_one() is not None
    return _set(session, known.values(), every_image=False, dropped=not by_row)


def _set(session: Session, ids: Collection[int], *, every_image: bool, dropped: bool) -> int:
    other = (Prompt.id.in_(ids), Prompt.every_image.is_not(every_image))
    now = {"every_image": every_image, "dropped": dropped, "changed": True}
    return rowcount(session, update(Prompt).where(*other).values(now)) if ids else 0


@dataclass(frozen=True)
class Settling:
    """A pass that lets the images of a run follow a change of its prompts, as it was when it began."""

    change: int  # number of the change
    last_chunk: int  # id of the run's last chunk
    reopens: bool  # the run was cancelled, and is taken up again


def unsettled_runs(session: Session) -> Sequence[int]:
    """Ids of runs whose images have not all followed a change. Cancelled ones are left to a command."""
    left = select(Run.id).where(Run.unsettled, Run.state.in_((RunState.ACTIVE, RunState.DONE)))
    return session.execute(left.order_by(Run.id)).scalars().all()


def begin_settling(session: Session, run_id: int) -> Settling | None:
    """What a pass that begins now needs to know; None if there is nothing to do, or the run is in other hands."""
    run = session.execute(select(Run.state, Run.unsettled, Run.prompt_changes).where(Run.id == run_id)).one_or_none()
    if run is None or not run.unsettled or run.state not in SETTLES:
        return None
    last_chunk = last_chunk_id(session, run_id) or 0
    return Settling(run.prompt_changes, last_chunk, reopens=run.state == RunState.CANCELLED)


def settle_slice(session: Session, run_id: int, place: Place, rows: int, settling: Settling) -> Slice:
    """Let the done images of the next chunks, about `rows` at most, follow a change of the run's prompts.

    Those that lack a result become pending in new chunks. The last slice notes that the run is settled. Two processes
    may do this at once. The pass ends if the prompts are changed again, or the run is cancelled meanwhile.
    """
    last_chunk = settling.last_chunk
    chunks = next_chunks(session, run_id, place, rows, DONE_IMAGES, DONE_IMAGES > 0, Chunk.id <= last_chunk)
    found = lock_run(session, run_id)
    if found is None or found.state not in SETTLES or not found.unsettled:
        return Slice(0, None)
    if found.prompt_changes != settling.change or (found.state == RunState.CANCELLED and not settling.reopens):
        return Slice(0, None)
    lacking = _lacking(session, run_id, chunks.ids)
    if lacking:
        begin_anew(session, run_id, found.chunk_size, [image.id for image in lacking], last_chunk, adds=True)
        reopen(session, run_id)
    if chunks.ids:
        of_chunks = among(session, Image.chunk_id, chunks.ids)
        # The prompts without a result were dropped, so these images are complete and need no warning any more.
        rowcount(session, update(Image).where(of_chunks, INCOMPLETE).values(adds=False, warning=None))
        done = count_results(session, of_chunks, Image.state == ImageState.DONE)
        count_anew(session, chunks.ids, done, Counter(image.chunk_id for image in lacking))
    if chunks.is_last:
        session.execute(update(Run).where(Run.id == run_id).values(unsettled=False))
    return Slice(len(lacking), chunks.place)


def _lacking(session: Session, run_id: int, chunk_ids: Sequence[int]) -> Sequence[Any]:
    """The done images of these chunks that lack a result of one of the run's prompts, locked, in the order of rows."""
    if not chunk_ids:
        return []
    of_run = select(Prompt.id).where(Prompt.run_id == run_id, Prompt.every_image)
    every_image = list(session.execute(of_run).scalars())
    has = select(func.count()).where(Result.image_id == Image.id, Result.prompt_id.in_(every_image)).scalar_subquery()
    lacks: tuple[ColumnElement[bool], ...] = (
        among(session, Image.chunk_id, chunk_ids),
        Image.state == ImageState.DONE,
        Image.prompts.is_(None),
        has < len(every_image),
    )
    images = select(Image.id, Image.chunk_id).where(*lacks).order_by(Image.row).with_for_update()
    return session.execute(images).all()
