"""The tables. Knows no queries, no Celery and no pixels.

Times are seconds since 1970 by the database's clock.
"""

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.columns import IDS_ONCE, LARGEST_COORDINATE, Id, JsonText
from db.states import LIVE, ChunkState, ImageState, RunState
from db.values import Frozen, Source, typed_columns


def _one_of(states: Iterable[str]) -> str:
    return f"state IN ({', '.join(repr(str(state)) for state in states)})"


class Base(DeclarativeBase):
    type_annotation_map = {str: Text, int: BigInteger, float: Float(53), bool: Boolean}  # noqa: RUF012 - as SQLAlchemy documents it


class Installation(Base):
    """The identity of this database: one row, which is inserted when the tables are made."""

    __tablename__ = "installation"

    identity: Mapped[str] = mapped_column(String(32), primary_key=True)  # random hex digits


class Run(Base):
    """One enqueue: its source and the settings that are frozen with it."""

    __tablename__ = "run"
    __table_args__ = (
        CheckConstraint(_one_of(RunState), "ck_run_state"),
        CheckConstraint(
            "threshold BETWEEN 0 AND 1 AND mask_threshold BETWEEN 0 AND 1 AND score_floor BETWEEN 0 AND 1",
            "ck_run_thresholds",
        ),
        CheckConstraint("duplicates >= 0 AND rejected >= 0 AND duplicates + rejected <= images", "ck_run_counters"),
        CheckConstraint("paused IS NULL OR state NOT IN ('done', 'cancelled')", "ck_run_paused"),
        CheckConstraint("priority BETWEEN -10 AND 10 AND share > 0 AND share <= 1", "ck_run_turn"),
        IDS_ONCE,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    uid: Mapped[str] = mapped_column(String(32))  # random hex digits: tells a run from an earlier one of the same name
    name: Mapped[str] = mapped_column(String(100), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float]
    started_at: Mapped[float | None]  # time of the first claim
    finished_at: Mapped[float | None]

    # where the rows come from, and how far that source has been read
    source: Mapped[str]  # absolute path of the file or folder, or a pattern of paths
    image_column: Mapped[str]
    prompt_column: Mapped[str | None]
    box_column: Mapped[str | None]
    # Names of the source's columns, in order; if their cells have types, an object: name -> type.
    columns: Mapped[list[str] | dict[str, str]] = mapped_column(JsonText)
    root: Mapped[str]  # absolute folder that relative image paths start from
    confined: Mapped[bool]  # the user named a root, and no path may lead out of it
    follow_symlinks: Mapped[bool]
    chunk_size: Mapped[int]
    load: Mapped[int]  # number of the current load, from 1; each row stores the load that saw it last
    load_start: Mapped[int]  # rows of the run before the current load
    source_rows: Mapped[int]  # rows read from the source in the current load
    source_size: Mapped[int]  # bytes
    source_mtime_ns: Mapped[int]
    source_sha256: Mapped[str | None]  # once the source was read to its end
    source_ended: Mapped[bool] = mapped_column(server_default=false())  # the current load read the source to its end

    # what may be changed at any time: see `db.steering`
    paused: Mapped[str | None]  # why none of its chunks is begun; NULL: it is not paused. A run that is over never is.
    priority: Mapped[int] = mapped_column(server_default="0")
    share: Mapped[float] = mapped_column(server_default="1")  # of the live workers, more than 0 and at most 1
    stop_after: Mapped[list[str] | None] = mapped_column(JsonText)  # each a `db.values.StopRule`
    resumed_at: Mapped[float | None]  # time of the last resume; the rules count from there

    # frozen settings
    model: Mapped[str]
    threshold: Mapped[float]
    mask_threshold: Mapped[float]
    score_floor: Mapped[float]
    mask_rule: Mapped[str] = mapped_column(String(16))
    orientation: Mapped[str] = mapped_column(String(16))
    stretch: Mapped[bool] = mapped_column(server_default=false())  # 16-bit values are spread over their range
    tile: Mapped[str | None] = mapped_column(String(16))  # side in pixels of the tiles of large images, or auto
    overlap: Mapped[int | None]  # pixels that neighbouring tiles share
    dedupe: Mapped[bool] = mapped_column(server_default=false())  # files that are equal byte by byte are computed once
    classes: Mapped[str | None]  # names, numbers and colours of classes, see `db.classes`; NULL: numbered by order
    points_per_side: Mapped[int | None]  # of the grid of a run that looks for everything; NULL: it looks for prompts
    # Its prompts were changed, and not all of its images and counters have followed: see `db.prompts`.
    unsettled: Mapped[bool] = mapped_column(server_default=false())
    prompt_changes: Mapped[int] = mapped_column(server_default="0")  # how often its prompts were changed

    # what the first worker loaded; a worker that loaded something else declines the run
    revision: Mapped[str | None]
    weights_sha256: Mapped[str | None]
    dtype: Mapped[str | None] = mapped_column(String(16))
    compiled: Mapped[bool | None]  # with kernels that torch compiled for this model
    versions: Mapped[dict[str, str] | None] = mapped_column(JsonText)  # that worker's packages: name -> version

    images: Mapped[int] = mapped_column(server_default="0")  # all rows
    duplicates: Mapped[int] = mapped_column(server_default="0")
    rejected: Mapped[int] = mapped_column(server_default="0")

    @property
    def frozen(self) -> Frozen:
        """The settings that the run's results depend on."""
        return Frozen(**{setting.name: getattr(self, setting.name) for setting in fields(Frozen)})

    @property
    def types(self) -> dict[str, str] | None:
        """The type of each column's cells; None if all are text."""
        return self.columns if isinstance(self.columns, dict) else None

    @property
    def rows_from(self) -> Source:
        """Where the rows come from, as a value."""
        named = {setting.name: getattr(self, _COLUMN_OF.get(setting.name, setting.name)) for setting in fields(Source)}
        return Source(**(named | {"columns": tuple(self.columns)}))

    @property
    def gone(self) -> int:
        """How many rows of the run the source no longer has; 0 until the source was read to its end."""
        # While the run is being deleted it may have fewer images than the source had rows.
        return max(0, self.images - self.source_rows) if self.source_ended else 0


_COLUMN_OF = {"path": "source"}  # field of `Source` -> column of `Run`, where their names differ


def source_columns(source: Source) -> dict[str, Any]:
    """The columns of a run that say where its rows come from."""
    values = {_COLUMN_OF.get(name, name): value for name, value in asdict(source).items() if name != "types"}
    return values | {"columns": typed_columns(source.columns, source.types)}


class Prompt(Base):
    """A noun phrase that is looked for in images of one run, and the class of what it finds.

    A prompt that was dropped stays with its results, but is not given to every image any more.
    """

    __tablename__ = "prompt"
    __table_args__ = (UniqueConstraint("run_id", "text", "class_name"), IDS_ONCE)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    text: Mapped[str]
    every_image: Mapped[bool]  # given to the run by --prompt; the others came with rows, or were dropped
    class_name: Mapped[str]
    dropped: Mapped[bool] = mapped_column(server_default=false())  # and no row has it as a prompt of its own
    changed: Mapped[bool] = mapped_column(server_default=false())  # added or dropped since the run was recorded


class Chunk(Base):
    """Some images of a run that are queued, claimed and retried together.

    Its counters change in the same transactions as the states of its images.
    """

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
        # A chunk that is over has no pending image. (Within a transaction a live chunk may have none, too.)
        CheckConstraint(
            f"{_one_of(LIVE)} OR segmented + empty + failed + cancelled = images",
            "ck_chunk_over",
        ),
        CheckConstraint("incomplete BETWEEN 0 AND segmented + empty", "ck_chunk_incomplete"),
        Index("ix_chunk_state", "run_id", "state", "number"),
        Index("ix_chunk_live", "state"),
        IDS_ONCE,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    number: Mapped[int]
    parent_id: Mapped[int | None]  # after a split: the chunk that was split; after a redo: the last chunk before it
    state: Mapped[str] = mapped_column(String(16))
    fence: Mapped[int] = mapped_column(server_default="0")  # grows with every claim
    attempts: Mapped[int] = mapped_column(server_default="0")  # claims since the last commit
    crashes: Mapped[int] = mapped_column(server_default="0")  # of those, claims whose worker died or fell silent
    releases: Mapped[int] = mapped_column(server_default="0")  # claims handed back since the last commit
    ring: Mapped[int] = mapped_column(server_default="0")  # doorbells so far
    not_before: Mapped[float | None]
    owner_id: Mapped[int | None]  # the worker that holds, or last held, the lease
    lease_until: Mapped[float | None]
    # First and last row of the batch in hand. Noted only after a crash, when the chunk runs one batch at a time.
    inflight_first: Mapped[int | None]
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
    incomplete: Mapped[int] = mapped_column(server_default="0")  # images done that have `adds`

    node: Mapped[str | None]  # node of the last claim
    started_at: Mapped[float | None]  # time of the first claim
    finished_at: Mapped[float | None]  # time of the last commit
    # Seconds of each stage, added up over the commits of all attempts: see `db.values.Spent`.
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
        # Partial: few rows fail, and retry and status look for failed rows only.
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
        # Partial: only runs with `dedupe` note the content.
        Index(
            "ix_image_content",
            "run_id",
            "content",
            sqlite_where=text("content IS NOT NULL"),
            postgresql_where=text("content IS NOT NULL"),
        ),
        IDS_ONCE,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    row: Mapped[int]  # number that the row got when it was first seen, from 1
    position: Mapped[int | None]  # place of the row in the source of the current load, from 1; NULL: the same as `row`
    load: Mapped[int]  # number of the load that saw the row last
    path: Mapped[str]  # relative to the run's root, or absolute
    # Cells of the other columns by name, and the cell of the path where its text differs from `path`.
    cells: Mapped[dict[str, Any] | None] = mapped_column(JsonText)
    prompts: Mapped[list[int] | None] = mapped_column(JsonText)  # ids of the row's prompts; NULL: those of the run
    state: Mapped[str] = mapped_column(String(16))
    chunk_id: Mapped[int | None] = mapped_column(ForeignKey("chunk.id"))
    same_as: Mapped[int | None]  # id of the earlier row that this one duplicates
    width: Mapped[int | None]  # pixels of each mask, after the orientation rule
    height: Mapped[int | None]
    file_size: Mapped[int | None]  # bytes of the file when it was read
    file_mtime_ns: Mapped[int | None]  # time of the file's last change, in nanoseconds since 1970
    error_class: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[str | None]
    warning: Mapped[str | None]  # what is odd about a picture that was segmented all the same
    # Hash of the file's bytes when it was read and of what was looked for in it; NULL unless the run has `dedupe`.
    content: Mapped[bytes | None] = mapped_column(LargeBinary)
    tiling: Mapped[str | None] = mapped_column(String(48))  # how it is cut, if other than the run says
    boxes: Mapped[list[list[Any]] | None] = mapped_column(JsonText)  # each a `db.values.GivenBox`; NULL: none
    # The image has results, but none yet for some prompts that were added to the run later. A pending image with `adds`
    # is computed for these prompts only. A done image with `adds` is incomplete: they failed or were cancelled. Images
    # in other states do not have it.
    adds: Mapped[bool] = mapped_column(server_default=false())


class Result(Base):
    """What the model found for one prompt in one image.

    A done image has one for each of its prompts, unless it has `adds`; the primary key allows no second one.
    """

    __tablename__ = "result"
    __table_args__ = (CheckConstraint("presence BETWEEN 0 AND 1", "ck_result_presence"),)

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    # No foreign key: deleting a prompt would have to look through all results of all runs.
    prompt_id: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]  # fence of the claim that committed the result
    presence: Mapped[float]  # probability that the image shows the prompt at all, 0 to 1
    instances: Mapped[int]  # with a score of at least the run's threshold
    capped: Mapped[bool]  # so many were found that a limit may have hidden others


class Instance(Base):
    """One mask with its score and box; its values are those of `db.values.FoundInstance`."""

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
    """Identifies a process, so that its own machine can tell whether it still lives."""

    host: Mapped[str]
    boot: Mapped[str]  # names one start of the machine and one process namespace
    pid: Mapped[int]
    started: Mapped[int]  # start time of the process, in the machine's own ticks


class Worker(ProcessColumns, Base):
    """One worker process and what it does now."""

    __tablename__ = "worker"
    __table_args__ = IDS_ONCE

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    node: Mapped[str]
    heartbeat: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))  # a `WorkerState`
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
