"""Where runs stand: progress, errors, warnings, and the workers that serve them. Changes nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, false, func, select
from sqlalchemy.orm import Session

from db.chunks import COUNTERS
from db.models import Chunk, Image, Instance, Result, Run, Worker
from db.presence import LIVE_SECONDS
from db.states import STOPPED, ChunkState, ImageState, RunState, WorkerState, run_is_over
from db.times import is_over, is_recent, now
from db.views.run_views import RunGone

MOST_EMPTY = 200  # images that `found_below` looks at
SPENT = Chunk.commit_seconds + Chunk.waiting_seconds  # by the one thread that commits: they are the time that passed


@dataclass(frozen=True)
class ImageCounts:
    """How many images of a run there are, by state. Done images are either segmented or empty."""

    total: int
    pending: int
    segmented: int
    empty: int
    failed: int
    cancelled: int  # without those that only left as the source no longer has them: see `db.gone`
    duplicate: int
    rejected: int  # without those that the source no longer has
    gone: int = 0  # rows of any state that the source no longer has

    @property
    def ended(self) -> int:
        """Images that are done or failed."""
        return self.segmented + self.empty + self.failed


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Taken from the chunks' counters, so its cost does not grow with the images."""

    run: str
    state: str
    paused: str | None  # why it is paused; None: it is not
    priority: int
    share: float  # of the workers
    stop_after: Sequence[str]  # rules, each a `db.values.StopRule`
    images: ImageCounts
    chunks: dict[str, int]  # state -> number of chunks, for all states
    instances: int
    images_per_second: float | None
    eta_seconds: float | None
    created_at: float
    finished_at: float | None
    next_retry_seconds: float | None  # until the first resting chunk is due, if no other chunk can go on
    resting_error: str | None  # why that chunk rests
    last_fault: str | None  # fault of a worker's surroundings for which a chunk was given back that is queued now
    silent: bool  # a worker that wrote no sign of life lately holds one of its chunks
    unsettled: bool  # its prompts were changed, and not all of its images have followed
    capped: int  # images with a result that is capped
    warned: int  # done images with a warning
    incomplete: int  # done images without results of some prompts that were added later
    worker_seconds: float  # that workers have spent on its chunks

    @property
    def over(self) -> bool:
        """Whether nothing of the run is pending, or will be before a command takes it up."""
        return run_is_over(self.state, unsettled=self.unsettled)


@dataclass(frozen=True)
class ErrorLine:
    """How many rows of a run have an error class."""

    error_class: str
    count: int
    example: str  # path of the first such row, or its error if it has no path


@dataclass(frozen=True)
class WarningLine:
    """How many done images of a run have a warning."""

    warning: str
    count: int
    example: str  # path of the first such image


@dataclass(frozen=True)
class WorkerLine:
    """A live worker and what it does now."""

    node: str
    state: str
    run: str | None
    chunk: int | None
    images_per_second: float | None
    heartbeat: float  # seconds ago
    message: str | None


def progress(session: Session, run_id: int) -> Progress:
    """Where the run stands. Raises `RunGone`."""
    run = session.execute(select(Run).where(Run.id == run_id)).scalar_one_or_none()
    if run is None:
        raise RunGone
    chunks, counts, spent = _counted(session, run_id)
    images = _image_counts(run, counts, _rejected_and_gone(session, run))
    pending, rate = images.pending, _rate(session, run, images.ended)
    resting, error = _resting(session, run_id) if not chunks["queued"] + chunks["running"] else (None, None)
    return Progress(
        run=run.name,
        state=run.state,
        paused=run.paused,
        priority=run.priority,
        share=run.share,
        stop_after=run.stop_after or (),
        images=images,
        chunks=chunks,
        instances=counts["instances"],
        images_per_second=rate,
        eta_seconds=pending / rate if rate and pending and run.state not in STOPPED and not run.paused else None,
        created_at=run.created_at,
        finished_at=run.finished_at,
        next_retry_seconds=resting,
        resting_error=error,
        last_fault=_last_fault(session, run_id) if chunks["queued"] else None,
        silent=_is_held_in_silence(session, run_id) if chunks["running"] else False,
        unsettled=run.unsettled,
        capped=counts["capped"],
        warned=counts["warned"],
        incomplete=counts["incomplete"],
        worker_seconds=spent,
    )


def _counted(session: Session, run_id: int) -> tuple[dict[str, int], Counter[str], float]:
    """How many chunks of the run are in each state; the sums of their counters; and the seconds that workers spent."""
    sums = [func.sum(getattr(Chunk, name)).label(name) for name in COUNTERS]
    columns = (Chunk.state, func.count().label("chunks"), func.sum(SPENT).label("spent"), *sums)
    by_state = session.execute(select(*columns).where(Chunk.run_id == run_id).group_by(Chunk.state)).all()
    chunks = {str(state): 0 for state in ChunkState} | {row.state: row.chunks for row in by_state}
    counts = Counter({name: sum(int(getattr(row, name)) for row in by_state) for name in COUNTERS})
    return chunks, counts, sum(float(row.spent) for row in by_state)


def _rejected_and_gone(session: Session, run: Run) -> int:
    """How many rejected rows of the run its source no longer has. The index on failed rows finds them, if any."""
    if not run.rejected or not run.gone:
        return 0
    of_run = (Image.run_id == run.id, Image.error_class.is_not(None))
    rejected = select(func.count()).select_from(Image).where(*of_run, _is_rejected_and_gone(run.id))
    return session.execute(rejected).scalar_one()


def _is_rejected_and_gone(run_id: int) -> ColumnElement[bool]:
    """Whether an image of the run stands for a bad row that the source, once it was read to its end, no longer has."""
    this_load = select(Run.load).where(Run.id == run_id, Run.source_ended).scalar_subquery()
    return and_(Image.state == ImageState.REJECTED, func.coalesce(Image.load < this_load, false()))


def _image_counts(run: Run, counts: Mapping[str, int], rejected_and_gone: int) -> ImageCounts:
    ended = {name: counts[name] for name in ("segmented", "empty", "failed", "cancelled")}
    pending = counts["images"] - sum(ended.values())  # duplicates and rejected rows are in no chunk
    rejected = run.rejected - rejected_and_gone
    return ImageCounts(run.images, pending, **ended, duplicate=run.duplicates, rejected=rejected, gone=run.gone)


def _rate(session: Session, run: Run, ended: int) -> float | None:
    """Images a second: for a done run the mean over its whole time, else the sum that its live workers report."""
    if run.state == RunState.DONE and run.started_at is not None and run.finished_at is not None:
        spent = run.finished_at - run.started_at  # negative if the clock was set back meanwhile
        return ended / max(spent, 0.001) if spent >= 0 else None
    return session.execute(
        select(func.sum(Worker.images_per_second)).where(
            Worker.run_id == run.id, Worker.state == WorkerState.RUNNING, is_recent(Worker.heartbeat, LIVE_SECONDS)
        )
    ).scalar_one()


def _resting(session: Session, run_id: int) -> tuple[float | None, str | None]:
    """Seconds until the first pending chunk is due, and its last error; (None, None) if one is due now."""
    rests_until = case((is_over(Chunk.not_before), 0.0), else_=func.coalesce(Chunk.not_before, 0.0))
    first = (
        select(rests_until - now(), Chunk.error)
        .where(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING)
        .order_by(rests_until)
        .limit(1)
    )
    row = session.execute(first).one_or_none()
    return (None, None) if row is None or row[0] <= 0 else (float(row[0]), row[1])


def _last_fault(session: Session, run_id: int) -> str | None:
    """Why a worker gave back a chunk that is queued now. Only queued chunks are looked at: they are few."""
    handed_back = select(Chunk.error).where(Chunk.run_id == run_id, Chunk.state == ChunkState.QUEUED)
    return session.execute(handed_back.where(Chunk.releases > 0, Chunk.error.is_not(None)).limit(1)).scalar()


def _is_held_in_silence(session: Session, run_id: int) -> bool:
    """Whether the worker that holds a chunk of the run is dead, or wrote no sign of life lately."""
    lives = select(Worker.id).where(
        Worker.id == Chunk.owner_id, Worker.state != WorkerState.DEAD, is_recent(Worker.heartbeat, LIVE_SECONDS)
    )
    held = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.state == ChunkState.RUNNING, ~lives.exists()).limit(1)
    return session.execute(held).first() is not None


def errors(session: Session, run_id: int) -> list[ErrorLine]:
    """Failed and rejected rows by error class, the most frequent first, each with its first row as an example.

    Rejected rows that the source no longer has are left out. The example is a path, or the row's error, which names the
    line, if it has no path.
    """
    of_run = Image.run_id == run_id
    groups = session.execute(
        select(Image.error_class, func.count().label("count"), func.min(Image.row))
        .where(of_run, Image.error_class.is_not(None), ~_is_rejected_and_gone(run_id))
        .group_by(Image.error_class)
        .order_by(func.count().desc(), Image.error_class)
    ).all()
    # No join: a database without statistics on a new run would read all of its rows to find these few.
    examples = select(Image.row, Image.path, Image.error).where(of_run, Image.row.in_([row for *_, row in groups]))
    shown = {row: path or error or "" for row, path, error in session.execute(examples)}
    return [ErrorLine(error_class or "", count, shown[row]) for error_class, count, row in groups]


def found_below(session: Session, run_id: int) -> tuple[int, int]:
    """Of up to 200 images of the run with an empty result: how many have an instance below the run's threshold, and
    how many there are."""
    chunk = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.empty > 0).order_by(Chunk.number.desc()).limit(2)
    empty = (
        select(Image.id)
        .join(Result, Result.image_id == Image.id)
        .where(Image.chunk_id.in_(chunk), Image.state == ImageState.DONE)
        .group_by(Image.id)
        .having(func.sum(Result.instances) == 0)
        .limit(MOST_EMPTY)
    ).subquery()
    some = select(Instance.image_id).where(Instance.image_id == empty.c.id).exists()
    below, total = session.execute(select(func.sum(case((some, 1), else_=0)), func.count()).select_from(empty)).one()
    return int(below or 0), int(total)


def warnings(session: Session, run_id: int) -> list[WarningLine]:
    """Warnings of done images, the most frequent first, each with the path of its first image."""
    of_run = (Image.run_id == run_id, Image.warning.is_not(None), Image.state == ImageState.DONE)
    groups = session.execute(
        select(Image.warning, func.count().label("count"), func.min(Image.row))
        .where(*of_run)
        .group_by(Image.warning)
        .order_by(func.count().desc(), Image.warning)
    ).all()
    rows = select(Image.row, Image.path).where(Image.run_id == run_id, Image.row.in_([row for *_, row in groups]))
    paths = {image.row: image.path for image in session.execute(rows)}
    return [WarningLine(warning or "", count, paths[row]) for warning, count, row in groups]


def workers(session: Session, run_id: int | None = None) -> list[WorkerLine]:
    """Live workers; with `run_id` only those that hold a chunk of this run or decline it.

    A worker that declined a run which is not active any more is shown as idle.
    """
    old = (Worker.state == WorkerState.DECLINED) & Run.state.is_distinct_from(RunState.ACTIVE)
    rows = session.execute(
        select(
            Worker.node,
            case((old, WorkerState.IDLE), else_=Worker.state),
            case((old, None), else_=Run.name),
            Chunk.number,
            Worker.images_per_second,
            now() - Worker.heartbeat,
            case((old, None), else_=Worker.message),
        )
        .outerjoin(Run, Run.id == Worker.run_id)
        .outerjoin(Chunk, Chunk.id == Worker.chunk_id)
        .where(is_recent(Worker.heartbeat, LIVE_SECONDS), Worker.state != WorkerState.DEAD)
        .where(Worker.run_id == run_id if run_id is not None else Worker.id.is_not(None))
        .order_by(Worker.node)
    )
    return [WorkerLine(*row) for row in rows]
