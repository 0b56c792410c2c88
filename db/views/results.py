"""A run's rows with their results, as exports and the preview read them. Changes nothing, knows no files.

Which rows there are, and in which order, is left to `db.views.rows`.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from sqlalchemy import LargeBinary, Row, func, literal, select
from sqlalchemy.orm import Session

from db.bulk import among, named_at_once
from db.columns import to_json
from db.conditions import READABLE
from db.models import Image, Instance, Result
from db.runs import state_of
from db.session import Sessions, read
from db.states import ImageState, RunState
from db.values import ClassResult, FoundInstance, PromptResult
from db.views.rows import PAGE_ROWS, Reading, ids_chosen, ids_in_pages, reading_of
from db.views.run_views import RunGone

Size = tuple[int, int]  # height and width of an image in pixels
# Chooses which of the instances of one image count, given its results in the order of their prompts, and its size.
Choose = Callable[[Sequence[PromptResult], Size], tuple[ClassResult, ...]]
# Columns, not entities: SQLAlchemy makes an entity in several times the time.
BOX = (Instance.x1, Instance.y1, Instance.x2, Instance.y2)
IMAGES = select(
    Image.id,
    Image.row,
    Image.path,
    Image.cells,
    Image.prompts,
    Image.state,
    Image.load,
    Image.same_as,
    Image.width,
    Image.height,
    Image.file_size,
    Image.error_class,
    Image.error,
    Image.boxes,
    Image.adds,
)


@dataclass(frozen=True)
class ExportedImage:
    """One row with its results. A duplicate shows those of its first row, but stays a duplicate.

    An image that waits for results of prompts that were added later is done, with the results that it has.
    """

    id: int
    row: int
    path: str
    cells: dict[str, Any] | None
    state: str
    error_class: str | None
    error: str | None
    width: int | None
    height: int | None
    results: tuple[ClassResult, ...]  # in the order of the row's prompts, or of the run's; empty unless it is done
    segmented: bool = False  # done, and some instance has the run's own threshold
    gone: bool = False  # the source, read to its end, no longer has the row
    file_size: int | None = None  # bytes of the image's file when its results were made
    # In a run with boxes: tells the files of this row from those of an earlier row of the same image, if there is one.
    twin: str = ""

    @property
    def status(self) -> str:
        """What became of the row, by the run's own threshold: segmented, empty, or its state."""
        if self.state != ImageState.DONE:
            return self.state
        return "segmented" if self.segmented else "empty"


@dataclass(frozen=True)
class Asked:
    """What a reader asks for of a run."""

    rows: Sequence[int] | None = None  # numbers of rows, in rising order; None: all
    gone: bool = False  # also the rows that the source no longer has, at the end
    prompts: Collection[int] | None = None  # ids of prompts: results of others are passed over; None: none are


ALL_ROWS = Asked()


def each_prompt(results: Sequence[PromptResult], size: Size) -> tuple[ClassResult, ...]:
    """All instances, with each prompt as a class of its own that has the prompt's id."""
    return tuple(ClassResult(one.prompt_id, one.presence, one.capped, one.instances) for one in results)


def exported_images(
    sessions: Sessions,
    run_id: int,
    least_score: float,
    choose: Choose = each_prompt,
    asked: Asked = ALL_ROWS,
) -> Iterator[ExportedImage]:
    """The source's rows in its order, as they were when this reading began, or those that are `asked` for.

    `choose` is given the instances of an image with at least `least_score`, and returns those that count. States and
    results are those of the moment at which their page is read. The memory does not grow with the run. Raises `RunGone`
    when the run is being deleted, and `DBAPIError` when the database is away for longer than `db.session.read` waits.
    """
    known, gone, rows = replace(read(sessions, reading_of, run_id), shown=asked.prompts), asked.gone, asked.rows
    for ids in ids_in_pages(sessions, known, gone) if rows is None else ids_chosen(sessions, known, gone, rows):
        yield from read(sessions, _page, known, ids, least_score, choose)
    read(sessions, _require_whole, run_id)


def some_images(
    session: Session, run_id: int, least_score: float, rows: Sequence[int], choose: Choose = each_prompt
) -> list[ExportedImage]:
    """The rows of the run with these numbers, in the order of the source; few, as one statement names them all.

    Their instances are those of `exported_images`. Raises `RunGone`.
    """
    known = reading_of(session, run_id)
    ids = select(Image.id).where(*known.rows(gone=False), Image.row.in_(rows)).order_by(*known.order())
    return _page(session, known, list(session.execute(ids).scalars()), least_score, choose)


def done_results(
    sessions: Sessions, run_id: int, least_score: float, *, masks: bool
) -> Iterator[tuple[list[PromptResult], Size]]:
    """The results of all readable images that are no duplicates, with the instances of at least `least_score`.

    Without `masks` the RLE of instances is empty, which takes a part of the time. Raises `RunGone`.
    """
    known = read(sessions, reading_of, run_id)
    for first in range(1, known.images + 1, PAGE_ROWS):
        yield from read(sessions, _done_results, known, (first, first + PAGE_ROWS - 1), least_score, masks)


def _done_results(
    session: Session, known: Reading, rows: tuple[int, int], least_score: float, masks: bool
) -> list[tuple[list[PromptResult], Size]]:
    columns = select(Image.id, Image.height, Image.width, Image.prompts).where(*known.rows(gone=False))
    done = columns.where(Image.row.between(*rows), READABLE).order_by(Image.row)
    images = session.execute(done).all()
    results, _ = _results(session, sorted(image.id for image in images), least_score, masks=masks)
    return [
        (known.own(results.get(image.id, []), image.prompts), (image.height or 0, image.width or 0)) for image in images
    ]


def _page(
    session: Session, known: Reading, ids: Sequence[int], least_score: float, choose: Choose
) -> list[ExportedImage]:
    """These rows with their results. Raises `RunGone` if one is missing, as only a delete removes rows."""
    found = {image.id: image for image in session.execute(IMAGES.where(Image.id.in_(ids)))}
    if len(found) < len(ids):
        raise RunGone
    return list(_with_results(session, known, [found[id] for id in ids], least_score, choose))


def _require_whole(session: Session, run_id: int) -> None:
    if state_of(session, run_id) in (None, RunState.DELETING):
        raise RunGone


def _with_results(
    session: Session, reading: Reading, images: Sequence[Row[Any]], least_score: float, choose: Choose
) -> Iterator[ExportedImage]:
    first_ids = [image.same_as for image in images if image.same_as is not None]
    firsts = {first.id: first for first in session.execute(IMAGES.where(Image.id.in_(first_ids)))} if first_ids else {}
    shown = {image.id: firsts.get(image.same_as or -1, image) for image in images}
    results, segmented = _results(session, sorted({image.id for image in shown.values()}), least_score)
    twins = _twins(session, reading, list(shown.values())) if reading.boxed else {}
    for image in images:
        source = shown[image.id]
        size = source.height or 0, source.width or 0
        # Results of an image in another state are old: a redo replaces them.
        done = source.state == ImageState.DONE or source.adds
        own = reading.own(results.get(source.id, []), image.prompts) if done else []
        yield ExportedImage(
            id=image.id,
            row=image.row,
            path=image.path,
            cells=image.cells,
            state=ImageState.DONE if image.adds else image.state,
            error_class=source.error_class,
            error=source.error,
            width=source.width if done else None,
            height=source.height if done else None,
            results=choose(own, size) if done else (),
            segmented=any((source.id, result.prompt_id) in segmented for result in own),
            gone=reading.is_gone(image.load),
            file_size=source.file_size if done else None,
            twin=twins.get(source.id, ""),
        )


def _twins(session: Session, reading: Reading, images: Sequence[Row[Any]]) -> dict[int, str]:
    """A checksum of the boxes of those of these images that are not in the first row of their path, by id.

    An absolute path below the root and the relative one are one path.
    """
    first_rows = select(Image.path, func.min(Image.row)).where(
        *reading.rows(gone=False), Image.state.not_in((ImageState.REJECTED, ImageState.DUPLICATE))
    )
    paths = list({spelled for image in images for spelled in reading.spellings(image.path)})
    firsts = {
        path: row
        for part in named_at_once(paths)
        for path, row in session.execute(first_rows.where(Image.path.in_(part)).group_by(Image.path))
    }
    return {
        image.id: sha256(to_json(image.boxes).encode()).hexdigest()[:16]
        for image in images
        if reading.is_gone(image.load)
        or image.row > min(firsts.get(path, image.row) for path in reading.spellings(image.path))
    }


def _results(
    session: Session, ids: Sequence[int], least_score: float, *, masks: bool = True
) -> tuple[dict[int, list[PromptResult]], set[tuple[int, int]]]:
    """The results of these images by image, and for which (image, prompt) there is an instance with the run's own
    threshold."""
    instances: defaultdict[tuple[int, int], list[FoundInstance]] = defaultdict(list)
    mask = Instance.rle if masks else literal(b"", LargeBinary)
    found = (
        select(Instance.image_id, Instance.prompt_id, Instance.score, *BOX, Instance.area, mask)
        .where(among(session, Instance.image_id, ids), Instance.score >= least_score)
        .order_by(Instance.image_id, Instance.prompt_id, Instance.rank)
    )
    for image_id, prompt_id, score, x1, y1, x2, y2, area, rle in session.execute(found):
        instances[image_id, prompt_id].append(FoundInstance(score, (x1, y1, x2, y2), area, rle))
    results: defaultdict[int, list[PromptResult]] = defaultdict(list)
    rows = (
        select(Result.image_id, Result.prompt_id, Result.presence, Result.capped, Result.instances)
        .where(among(session, Result.image_id, ids))
        .order_by(Result.image_id, Result.prompt_id)
    )
    segmented: set[tuple[int, int]] = set()
    for image_id, prompt_id, presence, capped, found_at_threshold in session.execute(rows):
        found_here = tuple(instances.get((image_id, prompt_id), ()))
        results[image_id].append(PromptResult(prompt_id, presence, capped, found_here))
        if found_at_threshold:
            segmented.add((image_id, prompt_id))
    return results, segmented
