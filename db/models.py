"""The tables and their states; knows no queries, no Celery and no pixels. Times are database seconds since 1970."""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from enum import StrEnum
from json.encoder import encode_basestring as _quoted
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.values import Frozen, Source

# SQLite numbers rows by itself only in an INTEGER column.
Id = BigInteger().with_variant(Integer, "sqlite")
# Without this SQLite gives the id of a deleted row to the next one. A late worker, or a reason that a worker remembers
# for a run, must never fit somebody else's row. (PostgreSQL's sequences never go back.)
IDS_ONCE = {"sqlite_autoincrement": True}
# Neither NaN nor an infinity passes: PostgreSQL holds NaN to be above all numbers, SQLite stores it as NULL.
LARGEST_COORDINATE = 1e9


class RunState(StrEnum):
    LOADING = "loading"  # rows are still arriving: nothing of it is dispatched or claimed
    ACTIVE = "active"
    DONE = "done"  # nothing is pending
    CANCELLING = "cancelling"  # nothing of it is claimed or committed any more; its live chunks are being cancelled
    CANCELLED = "cancelled"
    DELETING = "deleting"  # its rows are being deleted, the run's own row last


STOPPED = (RunState.CANCELLING, RunState.CANCELLED, RunState.DELETING)


class ChunkState(StrEnum):
    PENDING = "pending"  # waits for its turn, or for not_before
    QUEUED = "queued"  # its doorbell was rung
    RUNNING = "running"  # a worker holds its lease
    DONE = "done"  # nothing in it is pending
    FAILED = "failed"  # gave up: its pending images failed with it
    CANCELLED = "cancelled"


LIVE = (ChunkState.PENDING, ChunkState.QUEUED, ChunkState.RUNNING)


class ImageState(StrEnum):
    PENDING = "pending"
    DONE = "done"  # also when nothing was found
    FAILED = "failed"
    CANCELLED = "cancelled"
    DUPLICATE = "duplicate"  # the same path and prompts as an earlier row, `same_as`
    REJECTED = "rejected"  # a bad row; these last two belong to no chunk


class WorkerState(StrEnum):
    IDLE = "idle"
    LOADING = "loading"  # reads the model of the run that it was rung for
    RUNNING = "running"  # holds a chunk
    DECLINED = "declined"  # cannot serve its run, `message` says why; it waits for another one
    DEAD = "dead"  # its process ended without saying so


def to_json(value: Any) -> str:
    """One spelling for each value, so that equal values compare equal in SQL."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def cells_to_json(cells: dict[str, str]) -> str:
    """The same spelling in less than half of the time, which counts when there are a million."""
    return "{" + ",".join([f"{_quoted(name)}:{_quoted(cell)}" for name, cell in cells.items()]) + "}"


class JsonText(TypeDecorator[Any]):
    """JSON in a text column."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else to_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def _one_of(states: Iterable[str]) -> str:
    return f"state IN ({', '.join(repr(str(state)) for state in states)})"


class Base(DeclarativeBase):
    type_annotation_map = {str: Text, int: BigInteger, float: Float(53), bool: Boolean}  # noqa: RUF012 - SQLAlchemy's own spelling


class Installation(Base):
    """What this database calls itself: one row, made with the tables."""

    __tablename__ = "installation"

    identity: Mapped[str] = mapped_column(String(32), primary_key=True)  # random hex digits


class Run(Base):
    """One enqueue: its inputs and the settings frozen with them."""

    __tablename__ = "run"
    __table_args__ = (
        CheckConstraint(_one_of(RunState), "ck_run_state"),
        CheckConstraint(
            "threshold BETWEEN 0 AND 1 AND mask_threshold BETWEEN 0 AND 1 AND score_floor BETWEEN 0 AND 1",
            "ck_run_thresholds",
        ),
        CheckConstraint("duplicates >= 0 AND rejected >= 0 AND duplicates + rejected <= images", "ck_run_counters"),
        IDS_ONCE,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    uid: Mapped[str] = mapped_column(String(32))  # random hex digits: two runs of one name differ
    name: Mapped[str] = mapped_column(String(100), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float]
    started_at: Mapped[float | None]  # of the first claim
    finished_at: Mapped[float | None]

    # where the rows come from, and how far that source has been read
    source: Mapped[str]  # absolute path of the CSV or folder
    image_column: Mapped[str]
    prompt_column: Mapped[str | None]
    columns: Mapped[list[str]] = mapped_column(JsonText)  # the CSV's header, in order
    root: Mapped[str]  # absolute folder that relative image paths start from
    confined: Mapped[bool]  # a root was asked for: no path may leave it
    follow_symlinks: Mapped[bool]
    chunk_size: Mapped[int]
    load: Mapped[int]  # how often reading this source was begun; rows remember in which load they were last seen
    load_start: Mapped[int]  # rows of the run before the current load
    source_rows: Mapped[int]  # rows read from the source in the current load
    source_size: Mapped[int]  # bytes
    source_mtime_ns: Mapped[int]
    source_sha256: Mapped[str | None]  # once the source was read to its end
    source_ended: Mapped[bool] = mapped_column(server_default=false())  # the current load read it to its end

    # frozen settings
    model: Mapped[str]
    threshold: Mapped[float]
    mask_threshold: Mapped[float]
    score_floor: Mapped[float]
    mask_rule: Mapped[str] = mapped_column(String(16))
    orientation: Mapped[str] = mapped_column(String(16))
    stretch: Mapped[bool] = mapped_column(server_default=false())  # 16-bit values are spread over their range

    # what the first worker loaded; workers with something else decline the run
    revision: Mapped[str | None]
    weights_sha256: Mapped[str | None]
    dtype: Mapped[str | None] = mapped_column(String(16))
    versions: Mapped[dict[str, str] | None] = mapped_column(JsonText)  # of what that worker ran, by package

    images: Mapped[int] = mapped_column(server_default="0")  # all rows
    duplicates: Mapped[int] = mapped_column(server_default="0")
    rejected: Mapped[int] = mapped_column(server_default="0")

    @property
    def frozen(self) -> Frozen:
        """The settings that the run's results depend on."""
        return Frozen(**{setting.name: getattr(self, setting.name) for setting in fields(Frozen)})

    @property
    def rows_from(self) -> Source:
        """Where the rows come from."""
        named = {setting.name: getattr(self, _COLUMN_OF.get(setting.name, setting.name)) for setting in fields(Source)}
        return Source(**(named | {"columns": tuple(self.columns)}))

    @property
    def gone(self) -> int:
        """How many rows the source, read to its end, no longer has: each row that was read is one of the others."""
        return max(0, self.images - self.source_rows) if self.source_ended else 0  # below it while it is deleted


_COLUMN_OF = {"path": "source"}  # of a source: the others are called alike


def source_columns(source: Source) -> dict[str, Any]:
    """The columns of a run that say where its rows come from."""
    return {_COLUMN_OF.get(name, name): value for name, value in asdict(source).items()} | {
        "columns": list(source.columns)
    }


class Prompt(Base):
    __tablename__ = "prompt"
    __table_args__ = (UniqueConstraint("run_id", "text"), IDS_ONCE)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    text: Mapped[str]
    every_image: Mapped[bool]  # given to the run by --prompt; the others came with rows


class Chunk(Base):
    """What is queued, claimed and retried. The counters move in the transactions that move the images."""

    __tablename__ = "chunk"
    __table_args__ = (
        UniqueConstraint("run_id", "number"),
        CheckConstraint(_one_of(ChunkState), "ck_chunk_state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", "ck_chunk_lease"),
        CheckConstraint(
            "segmented >= 0 AND empty >= 0 AND failed >= 0 AND cancelled >= 0 AND instances >= 0"
            " AND segmented + empty + failed + cancelled <= images"
            " AND capped BETWEEN 0 AND segmented + empty AND warned BETWEEN 0 AND segmented + empty",
            "ck_chunk_counters",
        ),
        # A chunk that is over has nothing pending. (One that is live may have none in the middle of a transaction.)
        CheckConstraint(
            f"{_one_of(LIVE)} OR segmented + empty + failed + cancelled = images",
            "ck_chunk_over",
        ),
        Index("ix_chunk_state", "run_id", "state", "number"),
        Index("ix_chunk_live", "state"),
        IDS_ONCE,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    number: Mapped[int]
    parent_id: Mapped[int | None]  # a split's: the chunk it took these images from; a redo's: the last one before it
    state: Mapped[str] = mapped_column(String(16))
    fence: Mapped[int] = mapped_column(server_default="0")  # grows with every claim
    attempts: Mapped[int] = mapped_column(server_default="0")  # claims since the last commit
    crashes: Mapped[int] = mapped_column(server_default="0")  # of those, ended by the death of their process
    releases: Mapped[int] = mapped_column(server_default="0")  # claims handed back since the last commit
    ring: Mapped[int] = mapped_column(server_default="0")  # doorbells so far
    rung_at: Mapped[float | None]
    not_before: Mapped[float | None]
    owner_id: Mapped[int | None]  # the worker that holds, or last held, the lease
    lease_until: Mapped[float | None]
    inflight_first: Mapped[int | None]  # rows of the batch in hand, while it runs one batch at a time
    inflight_last: Mapped[int | None]
    error: Mapped[str | None]

    images: Mapped[int] = mapped_column(server_default="0")
    segmented: Mapped[int] = mapped_column(server_default="0")
    empty: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    cancelled: Mapped[int] = mapped_column(server_default="0")
    instances: Mapped[int] = mapped_column(server_default="0")  # at the run's threshold
    capped: Mapped[int] = mapped_column(server_default="0")  # images done with a result that is capped
    warned: Mapped[int] = mapped_column(server_default="0")  # images done that have a warning

    node: Mapped[str | None]  # that of the last claim
    started_at: Mapped[float | None]  # of the first claim
    finished_at: Mapped[float | None]  # of the last commit
    # What its commits have spent, in all attempts: see `db.values.Spent`.
    read_seconds: Mapped[float] = mapped_column(server_default="0")
    decode_seconds: Mapped[float] = mapped_column(server_default="0")
    preprocess_seconds: Mapped[float] = mapped_column(server_default="0")
    forward_seconds: Mapped[float] = mapped_column(server_default="0")
    masks_seconds: Mapped[float] = mapped_column(server_default="0")
    commit_seconds: Mapped[float] = mapped_column(server_default="0")
    waiting_seconds: Mapped[float] = mapped_column(server_default="0")


class Image(Base):
    """One input row."""

    __tablename__ = "image"
    __table_args__ = (
        UniqueConstraint("run_id", "row"),
        CheckConstraint(_one_of(ImageState), "ck_image_state"),
        Index("ix_image_path", "run_id", "path"),
        Index("ix_image_chunk", "chunk_id", "state"),
        # Only a few rows fail, and retry and status look for exactly those.
        Index(
            "ix_image_failed",
            "run_id",
            "error_class",
            sqlite_where=text("error_class IS NOT NULL"),
            postgresql_where=text("error_class IS NOT NULL"),
        ),
        Index(
            "ix_image_warning",
            "run_id",
            sqlite_where=text("warning IS NOT NULL"),
            postgresql_where=text("warning IS NOT NULL"),
        ),
        IDS_ONCE,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    row: Mapped[int]  # number that the row got when it was first seen, from 1
    position: Mapped[int | None]  # number of the row in the source as the current load finds it; NULL: still `row`
    load: Mapped[int]  # the run's load that last saw the row
    path: Mapped[str]  # relative to the run's root, or absolute
    cells: Mapped[dict[str, str] | None] = mapped_column(
        JsonText
    )  # other columns, and the path's cell if it was spelled otherwise
    prompts: Mapped[list[int] | None] = mapped_column(JsonText)  # prompt ids; NULL: the run's
    state: Mapped[str] = mapped_column(String(16))
    chunk_id: Mapped[int | None] = mapped_column(ForeignKey("chunk.id"))
    same_as: Mapped[int | None]  # id of the earlier row that this one duplicates
    width: Mapped[int | None]  # of the masks: after the orientation rule
    height: Mapped[int | None]
    file_size: Mapped[int | None]  # bytes of the file when it was read
    file_mtime_ns: Mapped[int | None]  # and when it had last been changed
    error_class: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None]
    warning: Mapped[str | None]  # why what was found may not be what the picture shows


class Result(Base):
    """One image x one prompt. Its existence is what "done" means; the primary key allows it once."""

    __tablename__ = "result"
    __table_args__ = (CheckConstraint("presence BETWEEN 0 AND 1", "ck_result_presence"),)

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    # No foreign key: deleting a prompt would have to look through all results of all runs.
    prompt_id: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]  # of the claim that committed it
    presence: Mapped[float]  # probability that anything of the prompt is in the image
    instances: Mapped[int]  # with a score of at least the run's threshold
    capped: Mapped[bool]  # close to the model's limit of queries: there may be more


class Instance(Base):
    """One mask: score, box in pixels (x1, y1, x2, y2), and the COCO RLE counts over the image's height x width."""

    __tablename__ = "instance"
    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 1", "ck_instance_score"),
        CheckConstraint(
            " AND ".join(f"abs({edge}) <= {LARGEST_COORDINATE:.0f}" for edge in ("x1", "y1", "x2", "y2")),
            "ck_instance_box",
        ),
        CheckConstraint("area >= 0", "ck_instance_area"),
    )

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    prompt_id: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int] = mapped_column(Integer, primary_key=True)  # 0 has the highest score
    score: Mapped[float]
    x1: Mapped[float]
    y1: Mapped[float]
    x2: Mapped[float]
    y2: Mapped[float]
    area: Mapped[int]
    rle: Mapped[bytes] = mapped_column(LargeBinary)


class ProcessColumns:
    """Which process: enough to tell on its own machine whether it still lives."""

    host: Mapped[str]
    boot: Mapped[str]  # this start of the machine, and its process namespace
    pid: Mapped[int]
    started: Mapped[int]  # start time of the process, in the machine's own ticks


class Worker(ProcessColumns, Base):
    """One worker process and what it does now."""

    __tablename__ = "worker"
    __table_args__ = IDS_ONCE

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    node: Mapped[str]
    heartbeat: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))  # of WorkerState
    run_id: Mapped[int | None]
    chunk_id: Mapped[int | None]
    images: Mapped[int] = mapped_column(server_default="0")  # images committed by this process
    images_per_second: Mapped[float | None]
    message: Mapped[str | None]  # why it declines a run


class Lease(ProcessColumns, Base):
    """A named right to act alone, such as the reconciler's."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    until: Mapped[float]
