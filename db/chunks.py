"""The rows of chunks: how they are added, change state, count their images and are locked. Nothing else writes them.

A chunk changes by a named transition, which is one compare-and-set: an UPDATE that also names the states that it
expects. If it finds no row, another process was faster, and nothing is done. This module decides nothing and never
commits.

Every transaction takes locks in the same order, so that no two wait for each other: first workers, then chunks in the
order of their ids (which is the order of their numbers), then one run. Images need no place in this order: an image is
changed only under the lock of its chunk, and an image without a chunk only under the lock of its run.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Row, Update, bindparam, case, func, select, update
from sqlalchemy.orm import Session

from db.bulk import insert_rows, named_at_once
from db.models import Base, Chunk, Run
from db.states import LIVE, ChunkState, RunState
from db.times import now
from db.transitions import Transition

_CHUNKS = Base.metadata.tables["chunk"]
COUNTERS = ("images", "segmented", "empty", "failed", "cancelled", "instances", "capped", "warned", "incomplete")
DONE_COUNTERS = ("segmented", "empty", "instances", "capped", "warned", "incomplete")
DONE_IMAGES = Chunk.segmented + Chunk.empty
ENDED_IMAGES = DONE_IMAGES + Chunk.failed  # done or failed
PENDING_IMAGES = Chunk.images - ENDED_IMAGES - Chunk.cancelled
ATTEMPT_BACK = case((Chunk.attempts > 0, Chunk.attempts - 1), else_=0)  # as the attempt is not the chunk's fault
NOTHING: Mapping[str, Any] = {}


class ClaimedMeanwhile(Exception):
    """A worker has claimed a chunk since a change of its run began: the caller rolls back and tries again."""


@dataclass(frozen=True)
class HeldChunk:
    """A running chunk, locked until the transaction ends."""

    id: int
    run_id: int
    attempts: int
    crashes: int
    inflight_first: int | None  # rows in hand, if they are known
    inflight_last: int | None


@dataclass(frozen=True)
class LockedRun:
    """A run, locked until the transaction ends."""

    state: str
    chunk_size: int
    unsettled: bool
    prompt_changes: int


def change_chunks(
    session: Session,
    transition: Transition,
    *where: ColumnElement[bool],
    counts: Mapping[str, Any] = NOTHING,
    **values: Any,
) -> int:
    """Make the transition for all chunks that `where` chooses and that are in its states; return how many these are.

    `counts` is added to their counters, `values` are written. A `where` that may choose several chunks must lock them
    in order first: `in_order` makes it do so.
    """
    return rowcount(session, _update(transition, where, counts, values))


def change_chunk(
    session: Session,
    transition: Transition,
    returning: Sequence[Any],
    *where: ColumnElement[bool],
    counts: Mapping[str, Any] = NOTHING,
    **values: Any,
) -> Row[*tuple[Any, ...]] | None:
    """Make the transition for the one chunk that `where` chooses; see `change_chunks`.

    Returns the columns `returning` as they are after the change, or None if the chunk was not in one of its states.
    """
    changed = _update(transition, where, counts, values).returning(*returning)
    return session.execute(changed, execution_options={"synchronize_session": False}).one_or_none()


def _update(
    transition: Transition, where: Sequence[ColumnElement[bool]], counts: Mapping[str, Any], values: dict[str, Any]
) -> Update:
    counted = {name: _CHUNKS.c[name] + count for name, count in counts.items()}
    expected = Chunk.state.in_(transition.before) if len(transition.before) > 1 else Chunk.state == transition.before[0]
    return update(Chunk).where(*where, expected).values(values | counted | transition.sets)


def hold_running(session: Session, *where: ColumnElement[bool]) -> HeldChunk | None:
    """Lock the running chunk that `where` chooses, so that the caller can decide what it becomes; None if none is."""
    columns = (Chunk.id, Chunk.run_id, Chunk.attempts, Chunk.crashes, Chunk.inflight_first, Chunk.inflight_last)
    held = select(*columns).where(*where, Chunk.state == ChunkState.RUNNING).with_for_update(key_share=True)
    row = session.execute(held).one_or_none()
    return None if row is None else HeldChunk(*row)


def in_order(*where: ColumnElement[bool]) -> ColumnElement[bool]:
    """A condition that chooses the same chunks as `where` and locks them in the order of their ids."""
    return Chunk.id.in_(select(Chunk.id).where(*where).order_by(Chunk.id).with_for_update(key_share=True))


def lock_chunks(session: Session, *where: ColumnElement[bool]) -> Sequence[int]:
    """Lock the chunks that `where` chooses, until the transaction ends, also against deletion; return their ids."""
    return session.execute(select(Chunk.id).where(*where).order_by(Chunk.id).with_for_update()).scalars().all()


def lock_chunks_of(session: Session, ids: Iterable[int]) -> None:
    """Lock the chunks with these ids like `lock_chunks`, however many there are."""
    for part in named_at_once(sorted(ids)):
        lock_chunks(session, Chunk.id.in_(part))


def require_none_running(session: Session, run_id: int) -> None:
    """Raise `ClaimedMeanwhile` if a chunk of the run is running. The caller took back those that were, and then locked
    the run."""
    running = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.state == ChunkState.RUNNING).limit(1)
    if session.execute(running).first() is not None:
        raise ClaimedMeanwhile


def lock_run(session: Session, run_id: int) -> LockedRun | None:
    """Lock the run until the transaction ends; None if it is gone. Chunks are locked before it, never after it.

    While it is locked no other transaction cancels the run, adds chunks to it or moves its images. The lock is FOR NO
    KEY UPDATE, because FOR UPDATE would wait for every transaction that changed a chunk of the run twice: for such a
    row PostgreSQL locks the run as the target of the chunk's foreign key.
    Source: https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS.
    """
    run = select(Run.state, Run.chunk_size, Run.unsettled, Run.prompt_changes).where(Run.id == run_id)
    found = session.execute(run.with_for_update(key_share=True)).one_or_none()
    return None if found is None else LockedRun(*found)


def add_chunks(session: Session, run_id: int, sizes: Sequence[int], parent_id: int | None = None) -> list[int]:
    """Add pending chunks of these sizes with the run's next numbers; return their ids. The caller locks the run."""
    if not sizes:
        return []
    last = session.execute(select(func.max(Chunk.number)).where(Chunk.run_id == run_id)).scalar_one()
    first = 1 if last is None else last + 1
    state = Transition.ADD.after.value
    rows = [(run_id, number, state, size, parent_id) for number, size in enumerate(sizes, start=first)]
    insert_rows(session, _CHUNKS, ("run_id", "number", "state", "images", "parent_id"), rows)
    added = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.number >= first).order_by(Chunk.number)
    return list(session.execute(added).scalars())


def add_counts(session: Session, counts: Mapping[int, Counter[str]]) -> None:
    """Add `counts`, by chunk id, to the counters of these chunks."""
    values = {name: _CHUNKS.c[name] + bindparam(f"more_{name}") for name in COUNTERS}
    given = [{"chunk": id} | {f"more_{name}": count[name] for name in COUNTERS} for id, count in sorted(counts.items())]
    session.connection().execute(update(_CHUNKS).where(Chunk.id == bindparam("chunk")).values(values), given)


def subtract_counts(session: Session, counts: Mapping[int, Counter[str]]) -> None:
    """Subtract `counts`, by chunk id, from the counters of these chunks, because images leave them.

    A failed or cancelled chunk that is left with no failed, cancelled or incomplete image is done.
    """
    add_counts(session, {id: Counter({name: -number for name, number in left.items()}) for id, left in counts.items()})
    _leave(session, counts)


def count_anew(
    session: Session, chunk_ids: Sequence[int], done: Mapping[int, Counter[str]], left: Counter[int]
) -> None:
    """Set the counters of done images of these chunks to `done`, by chunk id; `left` of their images have left them."""
    values: dict[str, Any] = {name: bindparam(f"now_{name}") for name in DONE_COUNTERS}
    values["images"] = Chunk.images - bindparam("left")
    given = [
        {"chunk": id, "left": left[id]} | {f"now_{name}": done.get(id, Counter())[name] for name in DONE_COUNTERS}
        for id in chunk_ids
    ]
    if given:
        session.connection().execute(update(_CHUNKS).where(Chunk.id == bindparam("chunk")).values(values), given)
        _leave(session, chunk_ids)


def _leave(session: Session, chunk_ids: Iterable[int]) -> None:
    none_left = Chunk.failed + Chunk.cancelled + Chunk.incomplete == 0
    for part in named_at_once(sorted(chunk_ids)):
        change_chunks(session, Transition.LEAVE, Chunk.id.in_(part), none_left, error=None)


def finish_run(session: Session, run_id: int) -> None:
    """active -> done, or cancelling -> cancelled, if no chunk of the run is live."""
    # Two last chunks may end at the same moment, each not seeing the other's end: the lock makes one wait for the
    # other and then look again. (SQLite has one writer at a time anyway and ignores it.)
    lock_run(session, run_id)
    live = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.state.in_(LIVE)).exists()
    session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state.in_((RunState.ACTIVE, RunState.CANCELLING)), ~live)
        .values(
            state=case((Run.state == RunState.ACTIVE, RunState.DONE), else_=RunState.CANCELLED),
            finished_at=now(),
            paused=None,  # so that a later retry of it goes on
        )
    )


def rowcount(session: Session, statement: Any) -> int:
    """Execute an UPDATE or DELETE; return how many rows it changed."""
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount
