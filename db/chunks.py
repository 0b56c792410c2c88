"""What several of the modules here do to chunk rows: add, change, and end a run with its last one. Decides nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, bindparam, case, func, select, update
from sqlalchemy.orm import Session

from db.bulk import insert_rows, named_at_once
from db.models import LIVE, Base, Chunk, ChunkState, Run, RunState
from db.session import now

CHUNKS = Base.metadata.tables["chunk"]
COUNTERS = ("images", "segmented", "empty", "failed", "cancelled", "instances", "capped", "warned")
NO_RANGE: dict[str, Any] = {"inflight_first": None, "inflight_last": None}  # no rows are known to be in hand


def add_chunks(session: Session, run_id: int, sizes: Sequence[int], parent_id: int | None = None) -> list[int]:
    """Add pending chunks of these sizes with the run's next numbers and return their ids."""
    if not sizes:
        return []
    last = session.execute(select(func.max(Chunk.number)).where(Chunk.run_id == run_id)).scalar_one()
    first = 1 if last is None else last + 1
    rows = [
        (run_id, number, ChunkState.PENDING.value, size, parent_id) for number, size in enumerate(sizes, start=first)
    ]
    insert_rows(session, CHUNKS, ("run_id", "number", "state", "images", "parent_id"), rows)
    added = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.number >= first).order_by(Chunk.number)
    return list(session.execute(added).scalars())


def take_out(session: Session, counts: Mapping[int, Counter[str]]) -> None:
    """Take so much out of the counters of chunks, by chunk id; less than nothing adds.

    A failed or cancelled chunk that is left with no failed and no cancelled image was done.
    """
    values = {name: CHUNKS.c[name] - bindparam(f"less_{name}") for name in COUNTERS}
    given = [{"chunk": id} | {f"less_{name}": count[name] for name in COUNTERS} for id, count in sorted(counts.items())]
    session.connection().execute(update(CHUNKS).where(Chunk.id == bindparam("chunk")).values(values), given)
    over = (Chunk.state.in_((ChunkState.FAILED, ChunkState.CANCELLED)), Chunk.failed + Chunk.cancelled == 0)
    for part in named_at_once(list(counts)):
        change_chunks(session, Chunk.id.in_(part), *over, state=ChunkState.DONE, error=None)


def finish_run(session: Session, run_id: int) -> None:
    """active -> done, or cancelling -> cancelled, if nothing of the run is live."""
    # Two last chunks may end at the same moment, each not seeing the other's end: the lock makes one wait for the
    # other and then look again. (SQLite has one writer at a time anyway and ignores it.) Not the strongest lock: both
    # have the run locked as the key of their chunk, as PostgreSQL does for a row changed twice in one transaction.
    session.execute(select(Run.id).where(Run.id == run_id).with_for_update(key_share=True))
    live = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.state.in_(LIVE)).exists()
    session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state.in_((RunState.ACTIVE, RunState.CANCELLING)), ~live)
        .values(state=case((Run.state == RunState.ACTIVE, RunState.DONE), else_=RunState.CANCELLED), finished_at=now())
    )


def change_chunks(session: Session, *where: ColumnElement[bool], **values: Any) -> int:
    """Update chunk rows; how many there were."""
    return rowcount(session, update(Chunk).where(*where).values(**values))


def rowcount(session: Session, statement: Any) -> int:
    """Execute an update; how many rows it changed."""
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount
