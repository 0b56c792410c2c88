"""What the producer inserts: runs, rows and their chunks. Knows no CSV, no Celery and no pixels.

A run is loaded in slices, one transaction each; how far its source was read is written in the same transaction,
so that a killed load goes on where it stopped. Functions take the caller's session and never commit.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from sqlalchemy import Row, Text, and_, bindparam, insert, select, type_coerce, update
from sqlalchemy.orm import Session

from db.bulk import insert_rows, named_at_once
from db.chunks import add_chunks, change_chunks, finish_run, in_order, lock_chunks_of, rowcount
from db.columns import cells_to_json, to_json
from db.models import Base, Chunk, Image, Prompt, Run, source_columns
from db.outcomes import begin_anew
from db.prompt_rows import changed_prompts, prompt_ids, prompt_row, run_prompts
from db.states import STOPPED, STOPPING, ChunkState, ImageState, RunState
from db.times import now
from db.transitions import Transition
from db.values import Frozen, GivenBox, Source

IMAGES = Base.metadata.tables["image"]
ROW_COLUMNS = ("run_id", "row", "load", "path", "cells", "prompts")
# Plain strings: drivers write them faster than members of an enum.
PENDING, REJECTED = ImageState.PENDING.value, ImageState.REJECTED.value

Value = TypeVar("Value")
Columns = Sequence[str] | dict[str, str]  # of a source: names, or name -> type
_PromptJson = dict[tuple[str, ...] | None, str | None]  # prompts of a row -> the JSON of their ids


class LoadTaken(Exception):
    """Another process loads the same run at this moment."""


class LoadCancelled(LoadTaken):
    """The run was cancelled or deleted while it was loaded."""


@dataclass(frozen=True)
class KnownRun:
    """A run as an enqueue finds it. `columns`, sizes and times are those of `db.models.Run`."""

    id: int
    uid: str
    state: str
    frozen: Frozen
    source: Source
    prompts: tuple[str, ...]  # prompts that every image has, as `db.classes.Wording` types them
    chunk_size: int
    load: int
    images: int
    gone: int  # of these images, those whose row the source no longer has; they keep their results
    source_rows: int
    source_size: int
    source_mtime_ns: int
    source_sha256: str | None
    source_ended: bool
    unsettled: bool
    changed: frozenset[str]  # prompts that were added or dropped since the run was recorded, typed in the same way


class NewRow(NamedTuple):  # not a dataclass: a source may have 100 million rows, and a tuple is made in half the time
    """One input row. `rejected` is None for a good row, else the reason as (error class, message)."""

    path: str
    cells: dict[str, Any] | None = None  # values as JSON has them; of a source of text all are text
    prompts: tuple[str, ...] | None = None  # as `db.classes.Wording` types them; None: those of the run
    rejected: tuple[str, str] | None = None
    boxes: tuple[GivenBox, ...] | None = None  # None: none


_Placed = tuple[int, NewRow]  # the place of a row in the source, from 1, and the row


def find_run(session: Session, name: str) -> KnownRun | None:
    """The run of this name, or None."""
    run = session.execute(select(Run).where(Run.name == name)).scalar_one_or_none()
    if run is None:
        return None
    own = set(KnownRun.__dataclass_fields__) - {"frozen", "source", "prompts", "changed"}
    return KnownRun(
        frozen=run.frozen,
        source=run.rows_from,
        prompts=run_prompts(session, run.id),
        changed=changed_prompts(session, run.id),
        **{name: getattr(run, name) for name in own},
    )


def create_run(
    session: Session, name: str, source: Source, frozen: Frozen, prompts: Sequence[str], chunk_size: int
) -> int:
    """Insert an empty run in state loading and return its id. Raises `IntegrityError` if its name is taken."""
    values = source_columns(source) | asdict(frozen)
    run_id = session.execute(
        insert(Run)
        .values(
            name=name,
            uid=uuid4().hex,
            state=RunState.LOADING,
            created_at=now(),
            chunk_size=chunk_size,
            load=1,
            load_start=0,
            source_rows=0,
            source_size=0,
            source_mtime_ns=0,
            **values,
        )
        .returning(Run.id)
    ).scalar_one()
    if prompts:
        session.execute(insert(Prompt), [prompt_row(run_id, typed, every_image=True) for typed in prompts])
    return run_id


def begin_reading(session: Session, run_id: int, size: int, mtime_ns: int, columns: Columns) -> None:
    """Note that the source, which has `size` bytes now, is read on from the row where the last reading stopped."""
    # load_start keeps its value: the rows of an interrupted load have not been searched for duplicates yet.
    _update_run(
        session,
        run_id,
        source_size=size,
        source_mtime_ns=mtime_ns,
        source_sha256=None,
        source_ended=False,
        columns=columns if isinstance(columns, dict) else list(columns),
    )


def begin_matching(session: Session, run_id: int, size: int, mtime_ns: int, columns: Columns) -> None:
    """Note that the source was edited and is read again from its start. Known rows are found by their content."""
    begin_reading(session, run_id, size, mtime_ns, columns)
    _update_run(session, run_id, load=Run.load + 1, source_rows=0)


def add_rows(
    session: Session,
    run_id: int,
    read_before: int,
    rows: Sequence[NewRow],
    *,
    matching: bool = False,
    reopens: bool = False,
) -> int:
    """Record one slice of the source and return how many of its rows are new.

    `read_before` is how many rows of the source were read before this slice. With `matching`, rows that an earlier load
    brought keep their number; only their place in the source and their other cells are updated. Those that were gone,
    and have no results, are pending again.
    Raises `LoadTaken` if another process has read on meanwhile, and `LoadCancelled` if the run was cancelled or
    deleted. With `reopens`, a run that was cancelled before this load began is loaded all the same.
    """
    if matching:
        _lock_known(session, run_id, rows)
    run = _read_on(session, run_id, read_before, len(rows), reopens)
    prompts = _prompts_as_json(session, run_id, rows)
    new: Sequence[_Placed] = list(enumerate(rows, start=read_before + 1))
    if matching:
        parts = [_unknown(session, run_id, run.load, part, prompts) for part in named_at_once(new)]
        new = [row for unknown, _ in parts for row in unknown]
        _take_up(session, run_id, run.chunk_size, [id for _, returned in parts for id in returned])
    if new:
        _insert_images(session, run_id, run, new, prompts)
        rejected = sum(row.rejected is not None for _, row in new)
        totals = {"images": Run.images + len(new), "rejected": Run.rejected + rejected}
        _update_run(session, run_id, state=RunState.LOADING, finished_at=None, **totals)
    return len(new)


def _read_on(session: Session, run_id: int, read_before: int, count: int, reopens: bool) -> Row[*tuple[Any, ...]]:
    """Note that `count` more rows of the source were read, and return what inserting them needs of the run.

    This locks the run until the transaction ends. Raises as `add_rows` says.
    """
    run = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.source_rows == read_before)
        .values(source_rows=Run.source_rows + count)
        .returning(Run.state, Run.images, Run.load, Run.load_start, Run.chunk_size)
    ).one_or_none()
    if run is None:
        gone = session.execute(select(Run.id).where(Run.id == run_id)).first() is None
        raise LoadCancelled if gone else LoadTaken
    may_reopen = reopens and run.state == RunState.CANCELLED and run.images == run.load_start
    if run.state in STOPPED and not may_reopen:
        raise LoadCancelled
    return run


def _prompts_as_json(session: Session, run_id: int, rows: Sequence[NewRow]) -> _PromptJson:
    """For each list of prompts that these rows have, the JSON of its prompt ids."""
    asked = {row.prompts for row in rows if row.prompts is not None}
    ids = prompt_ids(session, run_id, set(chain.from_iterable(asked)))
    return {None: None} | {texts: to_json([ids[text] for text in dict.fromkeys(texts)]) for texts in asked}


def known_paths(session: Session, run_id: int, paths: Iterable[str]) -> set[str]:
    """Which of these (at most 1000) paths are rows of the run."""
    known = select(Image.path).where(Image.run_id == run_id, Image.path.in_(list(paths)))
    return set(session.execute(known).scalars())


def _insert_images(
    session: Session, run_id: int, run: Row[*tuple[Any, ...]], rows: Sequence[_Placed], prompts: _PromptJson
) -> None:
    """Insert rows with the run's next numbers, the good ones in new chunks."""
    good = sum(row.rejected is None for _, row in rows)
    sizes = [min(run.chunk_size, good - first) for first in range(0, good, run.chunk_size)]
    chunk_ids = chain.from_iterable(map(repeat, add_chunks(session, run_id, sizes), sizes))
    pending: list[tuple[Any, ...]] = []
    rejected: list[tuple[Any, ...]] = []
    load, matched = run.load, run.load > 1
    boxed = any(row.boxes for _, row in rows)
    for number, (position, (path, cells, texts, reason, boxes)) in enumerate(rows, start=run.images + 1):
        row: tuple[Any, ...]
        row = (run_id, number, load, path, None if cells is None else cells_to_json(cells), prompts[texts])
        if matched:
            row += (_moved(number, position),)
        if boxed:
            row += (_boxes_as_json(boxes),)
        if reason is None:
            pending.append((*row, PENDING, next(chunk_ids)))
        else:
            rejected.append((*row, REJECTED, *reason))
    # Columns that are empty in nearly every row would cost a fifth of the time. So errors are written for rejected rows
    # only, the place in the source only after the source was edited, and boxes only where there are any.
    columns = (*ROW_COLUMNS, *(["position"] if matched else []), *(["boxes"] if boxed else []), "state")
    insert_rows(session, IMAGES, (*columns, "chunk_id"), pending)
    if rejected:
        insert_rows(session, IMAGES, (*columns, "error_class", "error"), rejected)


def _boxes_as_json(boxes: Sequence[GivenBox] | None) -> str | None:
    return to_json(boxes) if boxes else None


def _moved(number: int, position: int) -> int | None:
    """The value of a row's column `position`: NULL if the place in the source equals the row's number."""
    return None if position == number else position


def _lock_known(session: Session, run_id: int, rows: Sequence[NewRow]) -> None:
    """Lock the chunks of the rows that the run has already, since workers may be changing these rows.

    A row that moves to another chunk at this moment is missed. If a worker and this transaction then wait for each
    other, PostgreSQL ends one of the two, and that one is repeated.
    """
    chunk_ids = select(Image.chunk_id).where(Image.run_id == run_id, Image.chunk_id.is_not(None)).distinct()
    paths = named_at_once([row.path for row in rows])
    found = {id for part in paths for id in session.execute(chunk_ids.where(Image.path.in_(part))).scalars()}
    lock_chunks_of(session, {id for id in found if id is not None})


def _unknown(
    session: Session, run_id: int, load: int, rows: Sequence[_Placed], prompts: _PromptJson
) -> tuple[list[_Placed], list[int]]:
    """Mark the rows that an earlier load brought as seen in this load, at their new place.

    Returns the other rows, and the ids of known ones that were gone and have no results, so that they are in no chunk.
    """
    as_stored = (type_coerce(Image.prompts, Text), type_coerce(Image.boxes, Text))
    dropped = and_(Image.state == ImageState.CANCELLED, Image.chunk_id.is_(None))
    found = session.execute(
        select(Image.id, Image.row, dropped, Image.path, *as_stored, Image.state == ImageState.REJECTED)
        .where(Image.run_id == run_id, Image.path.in_({row.path for _, row in rows}), Image.load < load)
        .order_by(Image.row)
    )
    known: defaultdict[tuple[Any, ...], deque[tuple[int, int, bool]]] = defaultdict(deque)
    for id, number, was_dropped, *key in found:
        known[tuple(key)].append((id, number, was_dropped))
    seen, unknown, returned = [], [], []
    for position, row in rows:
        same = known[row.path, prompts[row.prompts], _boxes_as_json(row.boxes), row.rejected is not None]
        if same:
            id, number, was_dropped = same.popleft()
            if was_dropped:
                returned.append(id)
            seen.append({"image_id": id, "new_cells": row.cells, "place": _moved(number, position)})
        else:
            unknown.append((position, row))
    if seen:
        mark = update(IMAGES).where(Image.id == bindparam("image_id"))
        values = {"load": load, "cells": bindparam("new_cells"), "position": bindparam("place")}
        session.connection().execute(mark.values(values), seen)
    return unknown, returned


def _take_up(session: Session, run_id: int, chunk_size: int, ids: Sequence[int]) -> None:
    """cancelled -> pending for these images, which are in no chunk, in new chunks. The caller has locked the run."""
    if ids:
        begin_anew(session, run_id, chunk_size, ids)
        _update_run(session, run_id, state=RunState.LOADING, finished_at=None)


def finish_load(session: Session, run_id: int, sha256: str | None, *, ended: bool = True) -> None:
    """loading -> active. `ended`: the source was read to its end. `sha256`: checksum of the whole source, if known."""
    empty = in_order(Chunk.run_id == run_id, Chunk.state == ChunkState.PENDING, Chunk.images == 0)
    change_chunks(session, Transition.EMPTY, empty)
    _update_run(session, run_id, source_sha256=sha256, source_ended=ended, load_start=Run.images)
    session.execute(update(Run).where(Run.id == run_id, Run.state == RunState.LOADING).values(state=RunState.ACTIVE))
    finish_run(session, run_id)


def _update_run(session: Session, run_id: int, **values: Any) -> None:
    """Write columns of the run. Raises `LoadCancelled` if it is being cancelled or deleted, or is gone."""
    if not rowcount(session, update(Run).where(Run.id == run_id, Run.state.not_in(STOPPING)).values(**values)):
        raise LoadCancelled
