"""Which worker processes there are, and what each does. Cannot see processes: callers say which ones are dead."""

from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.orm import Session

from db.chunks import change_chunks, in_order, rowcount
from db.models import Chunk, Run, Worker
from db.states import STOPPED, ChunkState, WorkerState
from db.times import is_recent, now
from db.transitions import Transition

# A worker that has not written its heartbeat for this long is not counted as live.
LIVE_SECONDS = 60.0


@dataclass(frozen=True)
class Process:
    """One process of one machine; `started` tells it from a later process with the same pid."""

    host: str
    boot: str
    pid: int
    started: int


@dataclass(frozen=True)
class Registered:
    """A worker row and the process behind it."""

    worker_id: int
    node: str
    process: Process


def register(session: Session, node: str, process: Process) -> int:
    """Add a worker and return its id. Rows of the node's earlier processes stay, as chunks may refer to them."""
    row = insert(Worker).values(node=node, heartbeat=now(), state=WorkerState.IDLE, **asdict(process))
    return session.execute(row.returning(Worker.id)).scalar_one()


def register_anew(session: Session, forgotten_id: int, node: str, process: Process) -> int:
    """Add a new row for a worker whose row was deleted while it was silent, and return the new id.

    Chunks that the worker still holds name the new row as their owner.
    """
    mine = select(Worker.id).where(
        Worker.node == node, *(getattr(Worker, field) == value for field, value in asdict(process).items())
    )
    worker_id = session.execute(mine).scalar() or register(session, node, process)  # this transaction may be repeated
    held = in_order(Chunk.owner_id == forgotten_id, Chunk.state == ChunkState.RUNNING)
    change_chunks(session, Transition.ADOPT, held, owner_id=worker_id)
    return worker_id


def report(session: Session, worker_id: int, /, **does: object) -> bool:
    """Write a worker's heartbeat and what it does now: `state`, `run_id`, `chunk_id`, `images` and other columns.

    False: its row was deleted, because it was silent for too long.
    """
    return rowcount(session, update(Worker).where(Worker.id == worker_id).values(heartbeat=now(), **does)) > 0


def live_workers(session: Session) -> int:
    """How many workers live: not declared dead, with a heartbeat in the last `LIVE_SECONDS`."""
    fresh = select(func.count()).where(is_recent(Worker.heartbeat, LIVE_SECONDS), Worker.state != WorkerState.DEAD)
    return session.execute(fresh).scalar_one()


def busy_workers(session: Session) -> bool:
    """Whether any live worker holds a chunk."""
    running = (
        select(Worker.id).where(Worker.state == WorkerState.RUNNING, is_recent(Worker.heartbeat, LIVE_SECONDS)).limit(1)
    )
    return session.execute(running).first() is not None


def registered_on(session: Session, host: str, boot: str) -> list[Registered]:
    """Workers that ran since this start (`boot`) of this machine (`host`) and are not declared dead."""
    return _registered(session, host, boot, Worker.state != WorkerState.DEAD)


def _registered(session: Session, host: str, boot: str, *where: ColumnElement[bool]) -> list[Registered]:
    rows = select(Worker.id, Worker.node, Worker.host, Worker.boot, Worker.pid, Worker.started).where(
        Worker.host == host, Worker.boot == boot, *where
    )
    return [Registered(row.id, row.node, Process(*row[2:])) for row in session.execute(rows)]


def without_lease(session: Session, host: str, boot: str, *, stopped: bool) -> list[Registered]:
    """Workers of this machine that say they work on a chunk but do not hold its lease.

    Every worker is in this state for a moment when its chunk ends; a worker that stays in it hangs. With `stopped` only
    those whose run was cancelled or deleted: a healthy worker loses its lease in that way, with a batch in hand.
    Without `stopped` only the others.
    """
    goes_on = select(Run.id).where(Run.id == Worker.run_id, Run.state.not_in(STOPPED)).exists()
    held = select(Chunk.id).where(
        Chunk.id == Worker.chunk_id,
        Chunk.state == ChunkState.RUNNING,
        Chunk.owner_id == Worker.id,
        Chunk.lease_until > now(),
    )
    which = ~goes_on if stopped else goes_on
    return _registered(session, host, boot, Worker.state == WorkerState.RUNNING, ~held.exists(), which)


def mark_dead(session: Session, worker_id: int) -> None:
    """Mark a worker as dead. If it had answered a doorbell but not claimed the chunk, that chunk is pending again."""
    worker = session.get(Worker, worker_id)
    if worker is None:
        return
    worker.state = WorkerState.DEAD
    if worker.chunk_id is not None:
        change_chunks(session, Transition.LOSE_ANSWERER, Chunk.id == worker.chunk_id)


def forget_old_workers(session: Session, seconds: float = 86400.0) -> None:
    """Delete rows of workers without a heartbeat for `seconds`, unless a running chunk refers to them."""
    running = select(Chunk.owner_id).where(Chunk.state == ChunkState.RUNNING, Chunk.owner_id.is_not(None))
    session.execute(
        delete(Worker).where(~is_recent(Worker.heartbeat, seconds), Worker.id.not_in(running)),
        execution_options={"synchronize_session": False},
    )
