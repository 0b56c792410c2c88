"""Which worker processes there are, and what each does. Cannot see processes itself: callers say who is dead."""

from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.orm import Session

from db.chunks import Transition, change_chunks, in_order, rowcount
from db.models import STOPPED, Chunk, ChunkState, Run, Worker, WorkerState
from db.session import now
from db.times import is_recent

# A worker that has not written its heartbeat for this long is not counted as live.
LIVE_SECONDS = 60.0


@dataclass(frozen=True)
class Process:
    """One process of one machine, told apart from a later one that got the same number."""

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
    """Add a worker and return its id. Rows of the node's earlier processes stay, since chunks refer to them."""
    row = insert(Worker).values(node=node, heartbeat=now(), state=WorkerState.IDLE, **asdict(process))
    return session.execute(row.returning(Worker.id)).scalar_one()


def register_anew(session: Session, forgotten_id: int, node: str, process: Process) -> int:
    """Give a worker whose row was cleared away another one, and with it what it still holds; return its new id."""
    mine = select(Worker.id).where(
        Worker.node == node, *(getattr(Worker, field) == value for field, value in asdict(process).items())
    )
    worker_id = session.execute(mine).scalar() or register(session, node, process)  # it may be repeated
    held = in_order(Chunk.owner_id == forgotten_id, Chunk.state == ChunkState.RUNNING)
    change_chunks(session, Transition.ADOPT, held, owner_id=worker_id)
    return worker_id


def report(session: Session, worker_id: int, /, **does: object) -> bool:
    """Write a worker's heartbeat and what it does now: `state`, `run_id`, `chunk_id`, `images`, ... .

    False: it has no row any more, because it was silent for so long that it was forgotten.
    """
    return rowcount(session, update(Worker).where(Worker.id == worker_id).values(heartbeat=now(), **does)) > 0


def live_workers(session: Session) -> int:
    fresh = select(func.count()).where(is_recent(Worker.heartbeat, LIVE_SECONDS), Worker.state != WorkerState.DEAD)
    return session.execute(fresh).scalar_one()


def busy_workers(session: Session) -> bool:
    """Whether any live worker holds a chunk."""
    running = select(Worker.id).where(Worker.state == "running", is_recent(Worker.heartbeat, LIVE_SECONDS)).limit(1)
    return session.execute(running).first() is not None


def registered_on(session: Session, host: str, boot: str) -> list[Registered]:
    """Workers of one start of one machine that nobody has declared dead yet."""
    return _registered(session, host, boot, Worker.state != WorkerState.DEAD)


def _registered(session: Session, host: str, boot: str, *where: ColumnElement[bool]) -> list[Registered]:
    rows = select(Worker.id, Worker.node, Worker.host, Worker.boot, Worker.pid, Worker.started).where(
        Worker.host == host, Worker.boot == boot, *where
    )
    return [Registered(row.id, row.node, Process(*row[2:])) for row in session.execute(rows)]


def without_lease(session: Session, host: str, boot: str, *, stopped: bool) -> list[Registered]:
    """Workers of one start of one machine that say they work on a chunk, but do not hold its lease (any more).

    For a moment that is true of everyone who ends a chunk; a worker that stays so hangs. `stopped`: those whose run
    was cancelled or deleted, which takes the lease from a worker that is well and has a batch in hand; else the others.
    """
    goes_on = select(Run.id).where(Run.id == Worker.run_id, Run.state.not_in(STOPPED)).exists()
    held = select(Chunk.id).where(
        Chunk.id == Worker.chunk_id,
        Chunk.state == ChunkState.RUNNING,
        Chunk.owner_id == Worker.id,
        Chunk.lease_until > now(),
    )
    which = ~goes_on if stopped else goes_on
    return _registered(session, host, boot, Worker.state == "running", ~held.exists(), which)


def bury(session: Session, worker_id: int) -> None:
    """Mark a worker as dead. A chunk whose doorbell it had answered but not yet claimed waits for a new doorbell."""
    worker = session.get(Worker, worker_id)
    if worker is None:
        return
    worker.state = WorkerState.DEAD
    if worker.chunk_id is not None:
        change_chunks(session, Transition.LOSE_ANSWERER, Chunk.id == worker.chunk_id)


def forget_old_workers(session: Session, seconds: float = 86400.0) -> None:
    """Delete rows of workers long gone that no running chunk refers to."""
    running = select(Chunk.owner_id).where(Chunk.state == ChunkState.RUNNING, Chunk.owner_id.is_not(None))
    session.execute(
        delete(Worker).where(~is_recent(Worker.heartbeat, seconds), Worker.id.not_in(running)),
        execution_options={"synchronize_session": False},
    )
