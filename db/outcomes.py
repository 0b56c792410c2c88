"""Ends images and makes them pending again: their states, their results, and what they add to their chunks' counters.

The caller has locked the images' chunks. Knows no chunk states, and never commits.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, case, delete, func, insert, select, update
from sqlalchemy.orm import Session

from db.bulk import among
from db.chunks import add_chunks, rowcount
from db.models import TO_REDO, Image, Instance, Result
from db.states import ImageState
from db.values import PromptResult

# Columns that are empty for an image that failed without being read, even if an earlier attempt had read it.
NOT_READ: dict[str, Any] = dict.fromkeys(("width", "height", "file_size", "file_mtime_ns", "warning"))


@dataclass(frozen=True)
class ImageDone:
    """An image that was segmented, with one result for each of its prompts."""

    image_id: int
    width: int  # pixels of each mask
    height: int
    results: tuple[PromptResult, ...]
    file_size: int | None = None  # bytes
    file_mtime_ns: int | None = None  # nanoseconds since 1970
    warning: str | None = None  # what is odd about the picture
    content: bytes | None = None  # hash of what the results depend on, if the run finds equal files by it


@dataclass(frozen=True)
class ImageFailed:
    """An image that ends without a result, with the reason."""

    image_id: int
    error_class: str
    error: str
    file_size: int | None = None  # bytes; None if the file was not opened
    file_mtime_ns: int | None = None


Outcome = ImageDone | ImageFailed


def count_found(result: PromptResult, threshold: float) -> int:
    """How many instances of a result have at least the score `threshold`."""
    return sum(instance.score >= threshold for instance in result.instances)


def count_outcomes(outcomes: Sequence[Outcome], threshold: float) -> Counter[str]:
    """What these outcomes add to the counters of their chunk; instances are counted at the run's threshold."""
    counts = Counter[str]()
    for outcome in outcomes:
        if isinstance(outcome, ImageFailed):
            counts.update(failed=1)
            continue
        found = sum(count_found(result, threshold) for result in outcome.results)
        capped = any(result.capped for result in outcome.results)
        counts.update(_counts_of_done(found, capped=capped, warned=outcome.warning is not None))
    return counts


def count_results(session: Session, *where: ColumnElement[bool]) -> dict[int, Counter[str]]:
    """What the images that `where` chooses add to the counters of their chunks as done images, by chunk id.

    All of these images have results, also while they are pending because a redo computes them again.
    """
    rows = (
        select(
            Image.chunk_id,
            Image.warning.is_not(None).label("warned"),
            func.coalesce(func.sum(Result.instances), 0).label("instances"),
            func.coalesce(func.max(case((Result.capped, 1), else_=0)), 0).label("capped"),
        )
        .outerjoin(Result, Result.image_id == Image.id)
        .where(*where)
        .group_by(Image.id)
    )
    counts: dict[int, Counter[str]] = {}
    for image in session.execute(rows):
        done = _counts_of_done(int(image.instances), capped=bool(image.capped), warned=bool(image.warned))
        counts.setdefault(image.chunk_id, Counter()).update(done)
    return counts


def _counts_of_done(instances: int, *, capped: bool, warned: bool) -> dict[str, int]:
    """What one done image adds to the counters of its chunk."""
    found = int(instances > 0)
    return {
        "segmented": found,
        "empty": 1 - found,
        "instances": instances,
        "capped": int(capped),
        "warned": int(warned),
    }


def record(
    session: Session, chunk_id: int, fence: int, threshold: float, outcomes: Sequence[Outcome], again: Collection[int]
) -> bool:
    """pending -> done | failed for these images, with their results. Old results of the image ids `again` are deleted.

    False: some image was not pending in this chunk. That is a bug or a lost lease, and the caller must roll back.
    """
    done = [outcome for outcome in outcomes if isinstance(outcome, ImageDone)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, ImageFailed)]
    ended = sum(_end_images(session, chunk_id, alike) for alike in (done, failed) if alike)
    if ended != len(outcomes):
        return False
    if replaced := [outcome.image_id for outcome in outcomes if outcome.image_id in again]:
        drop_results(session, replaced)
    insert_results(session, fence, threshold, done)
    return True


def _end_images(session: Session, chunk_id: int, outcomes: Sequence[Outcome]) -> int:
    """pending -> done, or failed, for those of these images that are pending in the chunk; return how many.

    One statement for all of them: to build one for each took two thirds of a commit's processor time.
    """
    ends = update(Image).where(
        Image.id == bindparam("ended"), Image.chunk_id == chunk_id, Image.state == ImageState.PENDING
    )
    rows = [{"ended": outcome.image_id} | _values(outcome) for outcome in outcomes]
    return session.connection().execute(ends, rows).rowcount


def _values(outcome: Outcome) -> dict[str, Any]:
    """The columns that an outcome sets in the row of its image."""
    seen = {"file_size": outcome.file_size, "file_mtime_ns": outcome.file_mtime_ns}
    if isinstance(outcome, ImageDone):
        read: dict[str, Any] = {"width": outcome.width, "height": outcome.height, "warning": outcome.warning}
        if outcome.content is not None:  # then all images of the run that are done have one
            read["content"] = outcome.content
        return {"state": ImageState.DONE, **read, **seen}
    why = {"error_class": outcome.error_class, "error": outcome.error}
    return {"state": ImageState.FAILED, **why, **NOT_READ, **seen}


def insert_results(session: Session, fence: int, threshold: float, done: Sequence[ImageDone]) -> None:
    """Insert the results and instances of these images, as the claim with this fence found them."""
    results: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for image in done:
        for result in image.results:
            key = {"image_id": image.image_id, "prompt_id": result.prompt_id}
            found = {"presence": result.presence, "capped": result.capped, "instances": count_found(result, threshold)}
            results.append(key | found | {"fence": fence})
            for rank, found_here in enumerate(result.instances):
                box = dict(zip(("x1", "y1", "x2", "y2"), found_here.box, strict=True))
                mask = {"score": found_here.score, "area": found_here.area, "rle": found_here.rle}
                instances.append(key | box | mask | {"rank": rank})
    if results:
        session.execute(insert(Result), results)
    if instances:
        session.execute(insert(Instance), instances)


def drop_results(session: Session, image_ids: Sequence[int] | Select[int]) -> None:
    """Delete the results and instances of these images. The caller writes their new outcome in the same transaction."""
    for table in (Instance, Result):
        if isinstance(image_ids, Select):
            rowcount(session, delete(table).where(table.image_id.in_(image_ids)))
        else:
            rowcount(session, delete(table).where(among(session, table.image_id, image_ids)))


def fail_unread(session: Session, error_class: str, error: str, *where: ColumnElement[bool]) -> int:
    """pending -> failed for the images that `where` chooses, without reading them; return how many these are.

    If a redo was to compute them again, their old results are deleted.
    """
    pending = (*where, Image.state == ImageState.PENDING)
    drop_results(session, select(Image.id).where(*where, TO_REDO))
    values = {"state": ImageState.FAILED, "error_class": error_class, "error": error, **NOT_READ}
    return rowcount(session, update(Image).where(*pending).values(values))


def cancel_images(session: Session, chunk_ids: Sequence[int]) -> tuple[int, dict[int, Counter[str]]]:
    """pending -> cancelled for the images of these chunks; return how many these are.

    An image that a redo was to compute again becomes done instead and keeps its old results, which are complete. Also
    returns what these images add to the counters of their chunks, by chunk id.
    """
    of_chunks = among(session, Image.chunk_id, chunk_ids)
    pending, redone = (of_chunks, Image.state == ImageState.PENDING), (of_chunks, TO_REDO)
    kept = count_results(session, *redone)
    if kept:
        rowcount(session, update(Image).where(*redone).values(state=ImageState.DONE))
    return rowcount(session, update(Image).where(*pending).values(state=ImageState.CANCELLED)), kept


def begin_anew(
    session: Session,
    run_id: int,
    chunk_size: int,
    image_ids: Sequence[int],
    parent_id: int | None = None,
    tiling: str | None = None,
) -> None:
    """Make these images, which have ended, pending again in new chunks of the run. The caller has locked the run.

    With `tiling` they are cut in this way from now on, whatever the run says.
    """
    parts = [image_ids[first : first + chunk_size] for first in range(0, len(image_ids), chunk_size)]
    new_ids = add_chunks(session, run_id, [len(part) for part in parts], parent_id)
    for part, chunk_id in zip(parts, new_ids, strict=True):
        values = {"state": ImageState.PENDING, "chunk_id": chunk_id, "error_class": None, "error": None}
        if tiling is not None:
            values["tiling"] = tiling
        rowcount(session, update(Image).where(Image.id.in_(part)).values(values))
