"""How images end and begin anew: their states, their results, and what they count in their chunks.

Whoever calls has locked the images' chunks. Knows no chunk states, never commits.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, delete, func, insert, select, update
from sqlalchemy.orm import Session

from db.chunks import add_chunks, rowcount
from db.models import Image, ImageState, Instance, Result
from db.values import PromptResult

# What an image that failed without being read says of its file and its picture: nothing, also where it once was read.
NOT_READ: dict[str, Any] = dict.fromkeys(("width", "height", "file_size", "file_mtime_ns", "warning"))


@dataclass(frozen=True)
class ImageDone:
    image_id: int
    width: int
    height: int
    results: tuple[PromptResult, ...]
    file_size: int | None = None  # bytes
    file_mtime_ns: int | None = None
    warning: str | None = None  # why what was found may not be what the picture shows


@dataclass(frozen=True)
class ImageFailed:
    image_id: int
    error_class: str
    error: str
    file_size: int | None = None  # if the file was opened
    file_mtime_ns: int | None = None


Outcome = ImageDone | ImageFailed


def above(result: PromptResult, threshold: float) -> int:
    """How many instances of a result count as found."""
    return sum(instance.score >= threshold for instance in result.instances)


def count_outcomes(outcomes: Sequence[Outcome], threshold: float) -> Counter[str]:
    """What these outcomes add to the counters of their chunk; instances are counted at the run's threshold."""
    counts = Counter[str]()
    for outcome in outcomes:
        if isinstance(outcome, ImageFailed):
            counts.update(failed=1)
            continue
        found = sum(above(result, threshold) for result in outcome.results)
        capped = any(result.capped for result in outcome.results)
        counts.update(_done(found, capped=capped, warned=outcome.warning is not None))
    return counts


def count_results(session: Session, *where: ColumnElement[bool]) -> dict[int, Counter[str]]:
    """What the images that `where` chooses, which have results, are in the counters of their chunks, by chunk id."""
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
        done = _done(int(image.instances), capped=bool(image.capped), warned=bool(image.warned))
        counts.setdefault(image.chunk_id, Counter()).update(done)
    return counts


def _done(instances: int, *, capped: bool, warned: bool) -> dict[str, int]:
    """What one image that is done counts."""
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
    """pending -> done | failed, with the results; those of the images `again` are replaced.

    False: an image was not pending in this chunk. That is a bug or a lost lease, and nothing of it may be kept.
    """
    pending = (Image.chunk_id == chunk_id, Image.state == ImageState.PENDING)
    ended = sum(
        rowcount(session, update(Image).where(Image.id == outcome.image_id, *pending).values(**_values(outcome)))
        for outcome in outcomes
    )
    if ended != len(outcomes):
        return False
    if replaced := [outcome.image_id for outcome in outcomes if outcome.image_id in again]:
        drop_results(session, replaced)
    insert_results(session, fence, threshold, [outcome for outcome in outcomes if isinstance(outcome, ImageDone)])
    return True


def _values(outcome: Outcome) -> dict[str, Any]:
    """The columns of an image that ended so."""
    seen = {"file_size": outcome.file_size, "file_mtime_ns": outcome.file_mtime_ns}
    if isinstance(outcome, ImageDone):
        read = {"width": outcome.width, "height": outcome.height, "warning": outcome.warning}
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
            found = {"presence": result.presence, "capped": result.capped, "instances": above(result, threshold)}
            results.append(key | found | {"fence": fence})
            for rank, one in enumerate(result.instances):
                box = dict(zip(("x1", "y1", "x2", "y2"), one.box, strict=True))
                instances.append(key | box | {"rank": rank, "score": one.score, "area": one.area, "rle": one.rle})
    if results:
        session.execute(insert(Result), results)
    if instances:
        session.execute(insert(Instance), instances)


def drop_results(session: Session, image_ids: Sequence[int] | Select[int]) -> None:
    """Delete the results and instances of these images: their new outcome is written in the same transaction."""
    for table in (Instance, Result):
        rowcount(session, delete(table).where(table.image_id.in_(image_ids)))


def fail_unread(session: Session, error_class: str, error: str, *where: ColumnElement[bool]) -> int:
    """pending -> failed for the images that `where` chooses, which no worker reads any more; how many they were.

    Results of an earlier time, which were to be replaced, go as well.
    """
    pending = (*where, Image.state == ImageState.PENDING)
    drop_results(session, select(Image.id).where(*pending, Image.width.is_not(None)))
    values = {"state": ImageState.FAILED, "error_class": error_class, "error": error, **NOT_READ}
    return rowcount(session, update(Image).where(*pending).values(values))


def cancel_images(session: Session, chunk_ids: Sequence[int]) -> tuple[int, dict[int, Counter[str]]]:
    """pending -> cancelled for the images of these chunks; return how many they were.

    Also returns what the others of them add to the counters of their chunks: an image that was to be computed again is
    done, as it was before, because what it had is whole, and stays.
    """
    pending = (Image.chunk_id.in_(chunk_ids), Image.state == ImageState.PENDING)
    redone = (*pending, Image.width.is_not(None))
    kept = count_results(session, *redone)
    if kept:
        rowcount(session, update(Image).where(*redone).values(state=ImageState.DONE))
    return rowcount(session, update(Image).where(*pending).values(state=ImageState.CANCELLED)), kept


def begin_anew(
    session: Session, run_id: int, chunk_size: int, image_ids: Sequence[int], parent_id: int | None = None
) -> None:
    """Move these images, which have ended, into new chunks of the run, as pending. The caller has locked the run."""
    parts = [image_ids[first : first + chunk_size] for first in range(0, len(image_ids), chunk_size)]
    new_ids = add_chunks(session, run_id, [len(part) for part in parts], parent_id)
    for part, chunk_id in zip(parts, new_ids, strict=True):
        values = {"state": ImageState.PENDING, "chunk_id": chunk_id, "error_class": None, "error": None}
        rowcount(session, update(Image).where(Image.id.in_(part)).values(values))
