"""Opens a run and reads its rows, one after the other or any of them. Knows SQL only through `db.views`."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, Unpack

from sqlalchemy.exc import DBAPIError

from db.refusals import DatabaseUnusable
from db.runs import run_id_of
from db.session import Sessions, read, sqlite_url
from db.states import OVER, RunState
from db.values import ClassResult
from db.views import results, rows, run_views
from db.views.results import ExportedImage
from db.views.run_views import RunGone, RunView
from producer import stopping
from producer.cli.found import run_folder
from producer.cli.run_folder import read_run_file
from producer.results.choice import Choice, Chooser
from producer.results.common import ExportRequest, input_cells
from producer.results.exports.records import Records
from sam3_queue.rows import Instance, Result, Row
from workers.cli.base import DATABASE_RUN, RUN_FILE, error_of_database
from workers.cli.opening import open_database
from workers.errors import NoSuchRun, UsageError
from workers.places.location import place
from workers.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")


class Choosing(TypedDict, total=False):
    """Which instances are read of those that have their threshold; see `producer.results.choice.Choice`."""

    min_area: int
    nms: float
    contain: float
    nms_across: bool
    iou: Literal["mask", "box"]
    max_instances: int | None


def open_run(
    run: str | os.PathLike[str],
    *,
    database_url: str | None = None,
    threshold: float | Mapping[str | None, float] | None = None,
    **choosing: Unpack[Choosing],
) -> "Run":
    """The run that `run` names, as for the commands: a folder that sam3-run wrote, or a run of a database by its name.

    If a text is both, it is refused: then `./name` is the folder and `run:name` the run of the database. A `Path` is a
    folder. The database is `database_url`, in which only names are looked for, else that of SAM3_DATABASE_URL, else the
    user's own. `threshold`, from 0 to 1, decides which instances are read: those of the run's threshold if it is None,
    and none below its score floor. It may be a mapping from names of classes, or from None for all others. Of these
    instances are read those with `min_area` pixels or more; then those whose IoU with a better one of their class, or
    with `nms_across` of any, is at most `nms`, and that do not share `contain` of their pixels with it, on masks or on
    boxes (`iou`); and of these, for each class in an image, the `max_instances` with the highest scores.
    This and all methods that read raise subclasses of `workers.errors.Sam3Error`, each with one line: `NoSuchRun`, also
    for a run that is being deleted, `Unreachable`, `UsageError`.
    """
    with _errors_of_ours():
        name, url = _named(run, database_url)
        view = read(_sessions(url), _view_of, name)
    if view is None:
        raise NoSuchRun(f"no run called {name}, and no folder with a {RUN_FILE} of that name")
    stopping.refuse(name, view.state, RunState.DELETING)
    try:
        choice = Choice.made(view, _by_class(threshold), **choosing)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Run(url, ExportRequest(view, choice, Path(), partial=True))


def _by_class(threshold: float | Mapping[str | None, float] | None) -> Mapping[str | None, float]:
    if threshold is None or isinstance(threshold, Mapping):
        return threshold or {}
    return {None: threshold}


def _named(run: str | os.PathLike[str], database_url: str | None) -> tuple[str, str]:
    """Name of the run, and URL of its database, which is open then. Raises `UsageError` for an ambiguous text."""
    name = os.fspath(run).removeprefix(DATABASE_RUN)
    if database_url is not None:
        _sessions(database_url, named="database_url")
        return name, database_url
    settings = load_settings()
    folder = run_folder(run if isinstance(run, str) else os.path.join(os.curdir, run), settings)
    if folder is None:
        return name, settings.database_url
    there = read_run_file(folder)
    url = sqlite_url(there.database.absolute())
    _sessions(url, run_file=folder / RUN_FILE)
    return there.run, url


@contextmanager
def _errors_of_ours() -> Iterator[None]:
    """Turn errors of the database into subclasses of `Sam3Error`."""
    try:
        yield
    except (DatabaseUnusable, DBAPIError, RunGone) as error:
        raise error_of_database(error) or error from None


class Run:
    """A run as it was when it was opened; its rows are read as they are now. May be pickled, and used after a fork."""

    def __init__(self, url: str, request: ExportRequest) -> None:
        self._url, self._request = url, request

    @property
    def _view(self) -> RunView:
        return self._request.view

    @property
    def threshold(self) -> float:
        """The least score of an instance that is read, except for classes that have another threshold."""
        return self._request.choice.threshold

    @property
    def name(self) -> str:
        return self._view.name

    @property
    def prompts(self) -> list[str]:
        """The texts for the model, in the order in which they were given."""
        return list(self._view.prompts.values())

    @property
    def classes(self) -> list[str]:
        """Names of the classes: the prompts themselves, unless they were given with classes."""
        return [one.name for one in self._view.classes.values()]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the input."""
        return list(self._view.source.columns)

    @property
    def is_over(self) -> bool:
        """Whether nothing of the run was left to do when it was opened."""
        return self._view.state in OVER

    def __len__(self) -> int:
        """How many rows the source has."""
        return self._view.images - self._view.gone

    def __iter__(self) -> Iterator[Row]:
        """All rows in the order of the source. The memory does not grow with the run."""
        for image in self._images(self._choose):
            with _errors_of_ours():
                row = self._row(image)
            yield row

    def row(self, number: int) -> Row:
        """The row of this number, from 1. Raises `IndexError`."""
        choose = self._choose
        with _errors_of_ours():
            found = read(_sessions(self._url), results.some_images, self._view.id, choose.least_score, [number], choose)
            if not found:
                raise IndexError(f"run {self.name} has no row {number}")
            return self._row(found[0])

    def dataset(self, make: Callable[[Row], Value]) -> "RunDataset[Value]":
        """Something for torch's `DataLoader`: `make(row)` for each row. Any number of workers may share it."""
        with _errors_of_ours():
            return RunDataset(self, make, read(_sessions(self._url), rows.row_numbers, self._view.id))

    def to_pandas(self, *, flat: bool = False) -> "pd.DataFrame":
        """A row an image with nested results, or with `flat` a row an instance, as `sam3-export --format jsonl` has."""
        import pandas as pd

        with _errors_of_ours():
            self._read_again()
        records = Records(replace(self._request, flat=flat))  # has the classes of this moment, and so has `choose`
        rows = [record for image in self._images(self._request.choose) for record in records.of(image)]
        return pd.DataFrame(rows, columns=[*records.input_columns, *records.columns])

    @property
    def _choose(self) -> Chooser:
        return Chooser(self._view, self._request.choice, self._read_again)

    def _images(self, choose: Chooser) -> Iterator[ExportedImage]:
        with _errors_of_ours():
            yield from results.exported_images(_sessions(self._url), self._view.id, choose.least_score, choose)

    def _row(self, image: ExportedImage) -> Row:
        view = self._view
        return Row(
            number=image.row,
            path=image.path,
            place=place(view.source.root, image.path),
            cells=dict(zip(view.source.columns, input_cells(view, image), strict=True)),
            status=image.status,
            error_class=image.error_class,
            error=image.error,
            width=image.width,
            height=image.height,
            results=tuple(self._result(image, result) for result in image.results),
        )

    def _read_again(self) -> RunView:
        view = read(_sessions(self._url), run_views.run_view, self._view.id) or self._view
        self._request = replace(self._request, view=view)
        return view

    def _result(self, image: ExportedImage, result: ClassResult) -> Result:
        size = image.height or 0, image.width or 0
        return Result(
            self._view.classes[result.class_id].name,
            result.presence,
            result.capped,
            tuple(Instance(one.score, one.box, one.area, *size, one.rle) for one in result.instances),
        )


class RunDataset(Generic[Value]):
    """`make(row)` by index, in the order of the source: what torch calls a map-style dataset."""

    def __init__(self, run: Run, make: Callable[[Row], Value], numbers: Sequence[int]) -> None:
        self._run, self._make, self._numbers = run, make, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Value:
        return self._make(self._run.row(self._numbers[index]))


_opened: dict[tuple[int, str], Sessions] = {}


def _sessions(url: str, *, run_file: Path | None = None, named: str | None = None) -> Sessions:
    """The connections of this process: one that was forked must not use those of its parent.

    `run_file` and `named` are for errors, as `workers.cli.opening.open_database` has them.
    """
    key = os.getpid(), url
    if key not in _opened:
        _opened[key] = open_database(url, run_file=run_file, named=named)
    return _opened[key]


def _view_of(session: Any, name: str) -> RunView | None:
    run_id = run_id_of(session, name)
    return None if run_id is None else run_views.run_view(session, run_id)
