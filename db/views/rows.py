"""The rows of a run that its source has, in its order, by their numbers and ids. Changes nothing, knows no results.

The order is that of the source when it was read last. Rows that an edited source no longer has are *gone*: they stay in
the database with their results, and come last if the caller asks for them.

Reading all rows may take hours, so each page of rows is a short transaction of its own. A long one would keep SQLite
from emptying its write-ahead log, and could not be repeated when the database is away for a moment.
"""

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from sqlalchemy import ColumnElement, SQLColumnExpression, case, func, select
from sqlalchemy.orm import Session

from db.bulk import named_at_once
from db.conditions import OF_OWN_PROMPT, READABLE
from db.models import Image, Instance, Prompt, Result, Run
from db.session import Sessions, read
from db.states import ImageState, RunState
from db.values import PromptResult
from db.views.run_views import RunGone

PAGE_ROWS = 1000


@dataclass(frozen=True)
class Reading:
    """How far the source of a run was read at one moment."""

    run_id: int
    load: int
    ended: bool  # whether that load read the source to its end
    images: int  # rows of the run: their numbers go from 1 to this
    every_image: frozenset[int]  # ids of the prompts of rows that name none themselves
    boxed: bool = False  # whether rows may have boxes
    root: str = "/"  # absolute folder or URL that relative paths start from
    shown: Collection[int] | None = None  # ids of the prompts that the reader knows, as others may be newer; None: all

    def is_gone(self, load: int) -> bool:
        """Whether the source no longer has a row that was seen last by this load."""
        return self.ended and load < self.load

    def rows(self, *, gone: bool) -> tuple[ColumnElement[bool], ...]:
        """Conditions that choose the rows of the run; rows that are gone are left out unless `gone`."""
        of_run = (Image.run_id == self.run_id, Image.row <= self.images)
        return of_run if gone or not self.ended or self.load == 1 else (*of_run, Image.load == self.load)

    def own(self, results: Sequence[PromptResult], prompts: list[int] | None) -> list[PromptResult]:
        """The results that count for a row, in the order of its prompts.

        `results` are all results of its image. `prompts` are the ids of its own prompts; None: it has those of the run.
        """
        if self.shown is not None:
            results = [result for result in results if result.prompt_id in self.shown]
        if prompts is None:  # results of prompts that the run has dropped stay in the database
            return [result for result in results if result.prompt_id in self.every_image]
        return sorted(results, key=lambda result: prompts.index(result.prompt_id))

    def spellings(self, path: str) -> tuple[str, str]:
        """This path and how another row may spell it: absolute, or relative to the root."""
        folder = f"{self.root.rstrip('/')}/"
        return path, path.removeprefix(folder) if path.startswith(folder) else folder + path

    def order(self) -> tuple[SQLColumnExpression[Any], ...]:
        """The order of the source. Rows that the current load has not brought come last, in their old order."""
        if self.load == 1:
            return (Image.row,)  # an index has this order
        return (case((Image.load < self.load, 1), else_=0), func.coalesce(Image.position, Image.row), Image.row)


def reading_of(session: Session, run_id: int) -> Reading:
    """How far the source of the run was read. Raises `RunGone`, also for a run that is being deleted."""
    columns = (Run.load, Run.source_ended, Run.images, Run.state, Run.box_column, Run.root)
    run = session.execute(select(*columns).where(Run.id == run_id)).one_or_none()
    if run is None or run.state == RunState.DELETING:
        raise RunGone
    prompts = select(Prompt.id).where(Prompt.run_id == run_id, Prompt.every_image)
    every_image = frozenset(session.execute(prompts).scalars())
    return Reading(run_id, run.load, run.source_ended, run.images, every_image, run.box_column is not None, run.root)


def done_paths(sessions: Sessions, run_id: int) -> Iterator[str]:
    """The paths of all readable images of the run that are no duplicates, in the order of their numbers.

    Raises `RunGone`."""
    known = read(sessions, reading_of, run_id)
    for first in range(1, known.images + 1, 10 * PAGE_ROWS):
        yield from read(sessions, _done_paths_of_rows, known, first, first + 10 * PAGE_ROWS - 1)


def _done_paths_of_rows(session: Session, known: Reading, first: int, last: int) -> list[str]:
    paths = select(Image.path).where(*known.rows(gone=False), Image.row.between(first, last))
    return list(session.execute(paths.where(READABLE).order_by(Image.row)).scalars())


def row_numbers(session: Session, run_id: int) -> Sequence[int]:
    """The numbers of all rows that the source has, in its order; 8 bytes each if it was edited. Raises `RunGone`."""
    known = reading_of(session, run_id)
    if known.load == 1:
        return range(1, known.images + 1)
    numbers = select(Image.row).where(*known.rows(gone=False)).order_by(*known.order())
    return array("q", session.execute(numbers.execution_options(yield_per=PAGE_ROWS)).scalars())


def ids_in_pages(sessions: Sessions, known: Reading, gone: bool) -> Iterator[Sequence[int]]:
    """The ids of the rows, in the order of the source, a page at a time."""
    if known.load == 1:
        for first in range(1, known.images + 1, PAGE_ROWS):
            yield read(sessions, _ids_of_rows, known.run_id, first, min(first + PAGE_ROWS - 1, known.images))
        return
    # No index has the order of an edited source. So the rows are sorted once, and their ids (8 bytes each) are kept in
    # a file on disk.
    with TemporaryFile() as spool:
        read(sessions, _spool_ids, known, gone, spool)
        spool.seek(0)
        while packed := spool.read(PAGE_ROWS * array("q").itemsize):
            yield array("q", packed)


def ids_chosen(sessions: Sessions, known: Reading, gone: bool, rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """The ids of the rows with these numbers, as `ids_in_pages` gives those of all."""
    places: list[tuple[Any, ...]] = []  # in an edited source: what the rows are sorted by, and the id
    for part in named_at_once(rows, PAGE_ROWS):
        found = read(sessions, _places_of_rows, known, gone, part)
        if known.load == 1:
            yield [id for *_, id in found]
        else:
            places += found
    for page in named_at_once(sorted(places), PAGE_ROWS):
        yield [id for *_, id in page]


def _places_of_rows(session: Session, known: Reading, gone: bool, rows: Sequence[int]) -> list[tuple[Any, ...]]:
    wanted = select(*known.order(), Image.id).where(*known.rows(gone=gone), Image.row.in_(rows)).order_by(Image.row)
    return [tuple(row) for row in session.execute(wanted)]


def rows_of_paths(session: Session, run_id: int, paths: Sequence[str]) -> list[tuple[str, int]]:
    """Path and number of the rows of the run that have one of these paths, compared as text."""
    rows = select(Image.path, Image.row).where(Image.run_id == run_id)
    return [
        (path, row) for part in named_at_once(paths) for path, row in session.execute(rows.where(Image.path.in_(part)))
    ]


def _ids_of_rows(session: Session, run_id: int, first: int, last: int) -> list[int]:
    rows = select(Image.id).where(Image.run_id == run_id, Image.row.between(first, last)).order_by(Image.row)
    return list(session.execute(rows).scalars())


def _spool_ids(session: Session, known: Reading, gone: bool, spool: IO[bytes]) -> None:
    """Write the ids to `spool` in the order of the source. May be repeated: it empties the file first."""
    spool.seek(0)
    spool.truncate()
    ids = select(Image.id).where(*known.rows(gone=gone)).order_by(*known.order())
    for part in session.execute(ids.execution_options(yield_per=PAGE_ROWS)).scalars().partitions():
        array("q", part).tofile(spool)


def sample_rows(session: Session, run_id: int) -> dict[str, list[int]]:
    """Row numbers worth looking at: the most instances, the lowest scores, nothing found, failed; up to 25 of each."""
    rows = reading_of(session, run_id).rows(gone=False)
    done = (*rows, READABLE)
    per_image = (
        select(Image.row, func.sum(Result.instances).label("count"))
        .join(Result, Result.image_id == Image.id)
        .where(*done, OF_OWN_PROMPT)
        .group_by(Image.id, Image.row)
        .subquery()
    )
    found = per_image.c.count > 0
    lowest = (
        select(Image.row)
        .join(Instance, Instance.image_id == Image.id)
        .join(Run, Run.id == Image.run_id)
        .where(*done, Instance.score >= Run.threshold)
        .group_by(Image.row)
        .order_by(func.min(Instance.score))
    )
    queries = {
        "most instances": select(per_image.c.row).where(found).order_by(per_image.c.count.desc(), per_image.c.row),
        "lowest score": lowest,
        "empty": select(per_image.c.row).where(~found).order_by(per_image.c.row),
        "failed": select(Image.row).where(*rows, Image.state == ImageState.FAILED).order_by(Image.row),
    }
    return {name: list(session.execute(query.limit(25)).scalars()) for name, query in queries.items()}
