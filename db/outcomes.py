"""Ends images and makes them pending again: their states, their results, and what they add to their chunks' counters.

The caller has locked the images' chunks. Knows no chunk states, and never commits.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, delete, func, insert, select, update
from sqlalchemy.orm import Session

from db.bulk import among
from db.chunks import add_chunks, rowcount
from db.conditions import HAS_RESULTS, OF_OWN_PROMPT, TO_ADD, TO_REDO
from db.models import Image, Instance, Result
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

    All of these images have results, also while they are pending because they are computed again. Results of dropped
    prompts do not count.
    """
    rows = (
        select(
            Image.chunk_id,
            Image.warning.is_not(None).label("warned"),
            Image.adds,
            func.coalesce(func.sum(case((OF_OWN_PROMPT, Result.instances))), 0).label("instances"),
            func.coalesce(func.max(case((and_(Result.capped, OF_OWN_PROMPT), 1), else_=0)), 0).label("capped"),
        )
        .outerjoin(Result, Result.image_id == Image.id)
        .where(*where)
        .group_by(Image.id)
    )
    counts: dict[int, Counter[str]] = {}
    for image in session.execute(rows):
        done = _counts_of_done(int(image.instances), capped=bool(image.capped), warned=bool(image.warned))
        counts.setdefault(image.chunk_id, Counter()).update(done, incomplete=int(image.adds))
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
    if not _end_images(session, chunk_id, _values, done, failed):
        return False
    if replaced := [outcome.image_id for outcome in outcomes if outcome.image_id in again]:
        drop_results(session, replaced)
    insert_results(session, fence, threshold, done)
    return True


def record_added(
    session: Session, chunk_id: int, fence: int, threshold: float, outcomes: Sequence[Outcome]
) -> Counter[str] | None:
    """pending -> done for images that keep their results, to which those of prompts that were added are inserted.

    A failed image is done as well, and only lacks the new results. Returns what the images add to the counters of their
    chunk; None: some image was not pending in it, and the caller must roll back.
    """
    done = [outcome for outcome in outcomes if isinstance(outcome, ImageDone)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, ImageFailed)]
    if not _end_images(session, chunk_id, _values_of_added, done, failed):
        return None
    insert_results(session, fence, threshold, done)
    ids = [outcome.image_id for outcome in outcomes]
    return count_results(session, Image.id.in_(ids))[chunk_id] if ids else Counter()


def _end_images(
    session: Session, chunk_id: int, values: Callable[[Any], dict[str, Any]], *alike: Sequence[Outcome]
) -> bool:
    """Give the images of these outcomes, which are pending in the chunk, their `values`; false if one is not pending.

    One statement for all that are `alike`: to build one for each took two thirds of a commit's processor time.
    """
    ends = update(Image).where(
        Image.id == bindparam("ended"), Image.chunk_id == chunk_id, Image.state == ImageState.PENDING
    )
    ended = 0
    for outcomes in filter(None, alike):
        rows = [{"ended": outcome.image_id} | values(outcome) for outcome in outcomes]
        ended += session.connection().execute(ends, rows).rowcount
    return ended == sum(map(len, alike))


def _values(outcome: Outcome) -> dict[str, Any]:
    """The columns that an outcome sets in the row of its image."""
    seen = {"file_size": outcome.file_size, "file_mtime_ns": outcome.file_mtime_ns}
    if isinstance(outcome, ImageDone):
        read: dict[str, Any] = {"width": outcome.width, "height": outcome.height, "warning": outcome.warning}
        if outcome.content is not None:  # then all images of the run that are done have one
            read["content"] = outcome.content
        return {"state": ImageState.DONE, "adds": False, **read, **seen}
    why = {"error_class": outcome.error_class, "error": outcome.error}
    return {"state": ImageState.FAILED, **why, **NOT_READ, **seen}


def _values_of_added(outcome: Outcome) -> dict[str, Any]:
    """The columns that an outcome sets for an image that keeps its results, and so what is recorded of its file."""
    if isinstance(outcome, ImageFailed):
        return {"state": ImageState.DONE, "warning": not_added(outcome.error_class)}
    read = {"warning": outcome.warning} | ({} if outcome.content is None else {"content": outcome.content})
    return {"state": ImageState.DONE, "adds": False} | read


def not_added(error_class: str) -> str:
    """The warning of a done image whose added prompts could not be computed."""
    return f"prompts that were added later have no result: {error_class}"


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


def fail_unread(session: Session, error_class: str, error: str, *where: ColumnElement[bool]) -> Counter[str]:
    """pending -> failed for the images that `where` chooses, all of one chunk, without reading them.

    If a redo was to compute them again, their old results are deleted. An image that only lacks results of added
    prompts is done instead. Returns what the images add to the counters of their chunk.
    """
    kept = list(session.execute(select(Image.id).where(*where, TO_ADD)).scalars())
    counts = Counter[str]()
    if kept:
        done = {"state": ImageState.DONE, "warning": not_added(error_class)}
        rowcount(session, update(Image).where(Image.id.in_(kept)).values(done))
        counts = sum(count_results(session, Image.id.in_(kept)).values(), counts)
    pending = (*where, Image.state == ImageState.PENDING)
    drop_results(session, select(Image.id).where(*where, TO_REDO))
    values = {"state": ImageState.FAILED, "error_class": error_class, "error": error, **NOT_READ}
    counts.update(failed=rowcount(session, update(Image).where(*pending).values(values)))
    return counts


def cancel_images(session: Session, chunk_ids: Sequence[int]) -> tuple[int, dict[int, Counter[str]]]:
    """pending -> cancelled for the images of these chunks; return how many these are.

    An image that has results becomes done instead and keeps them: they are complete, unless prompts were added. Also
    returns what these images add to the counters of their chunks, by chunk id.
    """
    of_chunks = among(session, Image.chunk_id, chunk_ids)
    kept = keep_results(session, of_chunks)
    pending = (of_chunks, Image.state == ImageState.PENDING)
    return rowcount(session, update(Image).where(*pending).values(state=ImageState.CANCELLED)), kept


def keep_results(session: Session, *where: ColumnElement[bool]) -> dict[int, Counter[str]]:
    """pending -> done for those of the images that `where` chooses that have results: they are not computed again.

    Returns what these images add to the counters of their chunks, by chunk id.
    """
    kept = count_results(session, *where, HAS_RESULTS)
    if kept:
        rowcount(session, update(Image).where(*where, HAS_RESULTS).values(state=ImageState.DONE))
    return kept


def begin_anew(
    session: Session,
    run_id: int,
    chunk_size: int,
    image_ids: Sequence[int],
    parent_id: int | None = None,
    **values: Any,
) -> None:
    """Make these images, which have ended, pending again in new chunks of the run. The caller has locked the run.

    `values` are written as well: with a `tiling` they are cut in this way from now on, whatever the run says; with
    `adds`, which needs a `parent_id`, only those of their prompts that have no result are computed.
    """
    parts = [image_ids[first : first + chunk_size] for first in range(0, len(image_ids), chunk_size)]
    new_ids = add_chunks(session, run_id, [len(part) for part in parts], parent_id)
    for part, chunk_id in zip(parts, new_ids, strict=True):
        fresh = {"state": ImageState.PENDING, "chunk_id": chunk_id, "error_class": None, "error": None, "adds": False}
        rowcount(session, update(Image).where(Image.id.in_(part)).values(fresh | values))
