"""The rows of chunks: how they are added, change state, count their images and are locked. Nothing else writes them.

A chunk changes by a named `Transition`, which is one compare-and-set: an UPDATE that also names the states that it
expects. If it finds no row, another process was faster, and nothing is done. This module decides nothing and never
commits.

Every transaction takes locks in the same order, so that no two wait for each other: first workers, then chunks in the
order of their ids (which is the order of their numbers), then one run. Images need no place in this order: an image is
changed only under the lock of its chunk, and an image without a chunk only under the lock of its run.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Row, Update, bindparam, case, func, select, update
from sqlalchemy.orm import Session

from db.bulk import insert_rows, named_at_once
from db.models import Base, Chunk, Run
from db.session import now
from db.states import LIVE, ChunkState, RunState

_CHUNKS = Base.metadata.tables["chunk"]
COUNTERS = ("images", "segmented", "empty", "failed", "cancelled", "instances", "capped", "warned", "incomplete")
DONE_COUNTERS = ("segmented", "empty", "instances", "capped", "warned", "incomplete")
DONE_IMAGES = Chunk.segmented + Chunk.empty
ENDED_IMAGES = DONE_IMAGES + Chunk.failed  # done or failed
PENDING_IMAGES = Chunk.images - ENDED_IMAGES - Chunk.cancelled
ATTEMPT_BACK = case((Chunk.attempts > 0, Chunk.attempts - 1), else_=0)  # as the attempt is not the chunk's fault
NO_RANGE: dict[str, Any] = {"inflight_first": None, "inflight_last": None}  # no rows are known to be in hand
NOTHING: Mapping[str, Any] = {}


class Who(StrEnum):
    """Who makes a transition: a command, a part of the launcher, or a worker process."""

    ENQUEUE = "enqueue"
    RETRY = "retry"
    REDO = "redo"
    CANCEL = "cancel"
    RUN = "sam3-run"
    DISPATCH = "dispatch"
    RECONCILER = "reconciler"
    WORKER = "worker"


class Transition(Enum):
    """Each value is: states before, state after, who makes the change, and when.

    A test compares the table in docs/architecture.md with these.
    """

    ADD = (
        (),
        ChunkState.PENDING,
        (Who.ENQUEUE, Who.RETRY, Who.REDO, Who.RECONCILER),
        "inserted with the run's next number; the reconciler splits a chunk",
    )
    RING = (
        (ChunkState.PENDING,),
        ChunkState.QUEUED,
        (Who.DISPATCH,),
        "its run is active and not paused, `not_before` is over, it is the run's turn, and the run's window and share "
        "have room; ring + 1",
    )
    RING_AGAIN = (
        (ChunkState.QUEUED,),
        ChunkState.QUEUED,
        (Who.RECONCILER,),
        "its doorbell was absent twice, 30 s apart; ring + 1",
    )
    HAND_BACK = (
        (ChunkState.QUEUED,),
        ChunkState.PENDING,
        (Who.WORKER,),
        "it answers the doorbell but does not claim: the run is over or paused, a run of higher priority waits, it "
        "drains, or its model cannot be had (then the chunk rests a minute)",
    )
    FORGET_DOORBELL = (
        (ChunkState.QUEUED,),
        ChunkState.PENDING,
        (Who.RUN,),
        "its broker was started anew and holds nothing",
    )
    LOSE_ANSWERER = (
        (ChunkState.QUEUED,),
        ChunkState.PENDING,
        (Who.RECONCILER,),
        "the worker that answered its doorbell died before the claim",
    )
    CLAIM = (
        (ChunkState.QUEUED,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "claim, only if the run is active and not paused: fence + 1, attempts + 1, lease of 60 s",
    )
    CLAIM_AGAIN = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "the answer to its own claim was lost: fence + 1",
    )
    ADOPT = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "its own row was cleared away while it slept: the chunk names the new one as its owner",
    )
    RENEW = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "heartbeat every 10 s while work goes on: the lease is renewed",
    )
    BEGIN_RANGE = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "after a crash: the rows of the next batch are noted before their files are opened",
    )
    COMMIT = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "commit of a batch: results, image states and counters; attempts, crashes and releases back to 0",
    )
    FINISH = (
        (ChunkState.RUNNING,),
        ChunkState.DONE,
        (Who.WORKER,),
        "the commit after which nothing is pending",
    )
    RELEASE = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.WORKER,),
        "release, because it drains, the run is paused or its surroundings failed: attempt given back; from the 10th "
        "release in a row on, 5 minutes of rest",
    )
    FAIL_ATTEMPT = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.WORKER,),
        "unexpected error: attempt kept, rest of 5, 10, 20, 40 s",
    )
    FAIL = (
        (ChunkState.RUNNING,),
        ChunkState.FAILED,
        (Who.WORKER,),
        "5th attempt without a commit ended with an error: its pending images fail with the error's class",
    )
    TAKE_BACK = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.RECONCILER,),
        "owner dead, or lease over: crashes + 1; the first time without a rest, then 10, 20, 40 s",
    )
    SPLIT = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.RECONCILER,),
        "second crash and the rows in hand are known: they leave for chunks of their own, halved",
    )
    SPLIT_WHOLLY = (
        (ChunkState.RUNNING,),
        ChunkState.DONE,
        (Who.RECONCILER,),
        "second crash and the rows in hand are all that was pending: they leave, or fail if it is one image alone",
    )
    GIVE_UP = (
        (ChunkState.RUNNING,),
        ChunkState.FAILED,
        (Who.RECONCILER,),
        "5th attempt without a commit ended in a crash: pending images `failed(crashed)`, or `failed(gave_up)` if the "
        "owner lived",
    )
    CANCEL = (LIVE, ChunkState.CANCELLED, (Who.CANCEL, Who.RECONCILER), "the run is `cancelling`")
    CORRECT = (
        LIVE,
        ChunkState.PENDING,
        (Who.ENQUEUE,),
        "a run without results gets other settings; or prompts are added or dropped while it is `running`",
    )
    EMPTY = ((ChunkState.PENDING,), ChunkState.DONE, (Who.ENQUEUE,), "all its rows turned out to be duplicates")
    LEAVE = (
        (ChunkState.FAILED, ChunkState.CANCELLED),
        ChunkState.DONE,
        (Who.RETRY, Who.REDO, Who.ENQUEUE),
        "its failed, cancelled and incomplete images have left for new chunks",
    )

    def __init__(self, before: tuple[ChunkState, ...], after: ChunkState, who: tuple[Who, ...], rule: str) -> None:
        self.before, self.after, self.who, self.rule = before, after, who, rule
        # A chunk that leaves `running` loses its lease and its rows in hand in the same statement.
        leaves_running = ChunkState.RUNNING in before and after != ChunkState.RUNNING
        self.sets: dict[str, Any] = ({} if before == (after,) else {"state": after}) | (
            {"lease_until": None, **NO_RANGE} if leaves_running else {}
        )


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
    run = select(Run.state, Run.chunk_size, Run.unsettled).where(Run.id == run_id).with_for_update(key_share=True)
    found = session.execute(run).one_or_none()
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
