"""A run's rows with what was found in them, as exports and preview read them. Changes nothing, knows no files."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Image, ImageState, Instance, Result, Run

PAGE_ROWS = 1000


@dataclass(frozen=True)
class ExportedInstance:
    score: float
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
    area: int
    rle: bytes  # COCO counts over height x width


@dataclass(frozen=True)
class ExportedResult:
    prompt_id: int
    presence: float
    capped: bool
    instances: tuple[ExportedInstance, ...]


@dataclass(frozen=True)
class ExportedImage:
    """One row with its results. A duplicate shows those of its first row, but stays a duplicate."""

    id: int
    row: int
    path: str
    cells: dict[str, str] | None
    state: str
    error_class: str | None
    error: str | None
    width: int | None
    height: int | None
    results: tuple[ExportedResult, ...]  # in the order of the row's own prompts, else of the run's; none unless done


def exported_images(
    session: Session, run_id: int, min_score: float, *, rows: Sequence[int] | None = None
) -> Iterator[ExportedImage]:
    """The run's rows in input order with their instances of at least `min_score`, or only those row numbers.

    Read in pages, so that memory stays flat. Masks are COCO RLE counts.
    """
    last = 0
    while True:
        page = select(Image).where(Image.run_id == run_id, Image.row > last).order_by(Image.row).limit(PAGE_ROWS)
        if rows is not None:
            page = page.where(Image.row.in_(rows))
        images = session.execute(page).scalars().all()
        if not images:
            return
        yield from _with_results(session, images, min_score)
        last = images[-1].row
        session.expunge_all()


def _with_results(session: Session, images: Sequence[Image], min_score: float) -> Iterator[ExportedImage]:
    first_ids = [image.same_as for image in images if image.same_as is not None]
    firsts = {first.id: first for first in session.execute(select(Image).where(Image.id.in_(first_ids))).scalars()}
    shown = {image.id: firsts.get(image.same_as or -1, image) for image in images}
    results = _results(session, sorted({image.id for image in shown.values()}), min_score)
    for image in images:
        source = shown[image.id]
        yield ExportedImage(
            id=image.id,
            row=image.row,
            path=image.path,
            cells=image.cells,
            state=image.state,
            error_class=source.error_class,
            error=source.error,
            width=source.width,
            height=source.height,
            results=_in_order(results.get(source.id, []), image.prompts) if source.state == ImageState.DONE else (),
        )


def _in_order(results: list[ExportedResult], prompts: list[int] | None) -> tuple[ExportedResult, ...]:
    return tuple(results if prompts is None else sorted(results, key=lambda result: prompts.index(result.prompt_id)))


def _results(session: Session, ids: Sequence[int], min_score: float) -> dict[int, list[ExportedResult]]:
    instances: defaultdict[tuple[int, int], list[ExportedInstance]] = defaultdict(list)
    found = (
        select(Instance)
        .where(Instance.image_id.in_(ids), Instance.score >= min_score)
        .order_by(Instance.image_id, Instance.prompt_id, Instance.rank)
    )
    for one in session.execute(found).scalars():
        instances[one.image_id, one.prompt_id].append(
            ExportedInstance(one.score, (one.x1, one.y1, one.x2, one.y2), one.area, one.rle)
        )
    results: defaultdict[int, list[ExportedResult]] = defaultdict(list)
    rows = select(Result).where(Result.image_id.in_(ids)).order_by(Result.image_id, Result.prompt_id)
    for result in session.execute(rows).scalars():
        found_here = tuple(instances[result.image_id, result.prompt_id])
        results[result.image_id].append(ExportedResult(result.prompt_id, result.presence, result.capped, found_here))
    return results


def sample_rows(session: Session, run_id: int) -> dict[str, list[int]]:
    """Row numbers worth looking at: the most instances, the lowest scores, nothing found, failed; up to 25 of each."""
    per_image = (
        select(Image.row, func.sum(Result.instances).label("count"))
        .join(Result, Result.image_id == Image.id)
        .where(Image.run_id == run_id)
        .group_by(Image.id, Image.row)
        .subquery()
    )
    found = per_image.c.count > 0
    lowest = (
        select(Image.row)
        .join(Instance, Instance.image_id == Image.id)
        .join(Run, Run.id == Image.run_id)
        .where(Image.run_id == run_id, Instance.score >= Run.threshold)
        .group_by(Image.row)
        .order_by(func.min(Instance.score))
    )
    queries = {
        "most instances": select(per_image.c.row).where(found).order_by(per_image.c.count.desc(), per_image.c.row),
        "lowest score": lowest,
        "empty": select(per_image.c.row).where(~found).order_by(per_image.c.row),
        "failed": select(Image.row).where(Image.run_id == run_id, Image.state == ImageState.FAILED).order_by(Image.row),
    }
    return {name: list(session.execute(query.limit(25)).scalars()) for name, query in queries.items()}
