"""Opens a run and reads its rows, one after the other or any of them. Knows SQL only through `db.views`."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from db.runs import run_id_of
from db.session import Sessions, read, sqlite_url
from db.values import PromptResult
from db.views import results, status
from db.views.results import ExportedImage
from db.views.status import RunView
from producer.cli.run_folder import read_run_file
from producer.results.common import ExportRequest, input_cells, wanted
from producer.results.common import status as status_of
from producer.results.records import Records
from sam3_queue.rows import Instance, Result, Row
from workers.cli.base import RUN_FILE, open_database
from workers.errors import NoSuchRun, UsageError
from workers.inference.location import place
from workers.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")


def open_run(
    run: str | os.PathLike[str],
    *,
    database_url: str | None = None,
    threshold: float | None = None,
    min_area: int = 0,
    max_instances: int | None = None,
) -> "Run":
    """The run of a folder that sam3-run wrote, or the run of this name in the database.

    The database is `database_url`, else that of SAM3_DATABASE_URL, else the user's own. `threshold`, from 0 to 1,
    decides which instances are read: those of the run's threshold if it is None, and none below its score floor. Of
    them are read those with `min_area` pixels or more, and of these, for each prompt in an image, the `max_instances`
    with the highest scores.
    Raises subclasses of `workers.errors.Sam3Error`, each with one line: `NoSuchRun`, `Unreachable`, `UsageError`.
    """
    folder = Path(run)
    if database_url is None and (folder / RUN_FILE).is_file():
        there = read_run_file(folder)
        name, url = there.run, sqlite_url(there.database.absolute())
    else:
        name, url = os.fspath(run), database_url or load_settings().database_url
    view = read(_sessions(url), _view_of, name)
    if view is None:
        raise NoSuchRun(f"no run called {name}, and no folder with a {RUN_FILE} of that name")
    floor = view.frozen.score_floor
    if threshold is not None and not floor <= threshold <= 1:
        raise UsageError(f"threshold {threshold}: the run keeps instances from {floor} to 1")
    min_score = view.frozen.threshold if threshold is None else threshold
    request = ExportRequest(view, min_score, Path(), min_area=min_area, max_instances=max_instances, partial=True)
    return Run(url, request)


class Run:
    """A run as it was when it was opened; its rows are read as they are now. May be pickled, and used after a fork."""

    def __init__(self, url: str, request: ExportRequest) -> None:
        self._url, self._request = url, request

    @property
    def _view(self) -> RunView:
        return self._request.view

    @property
    def threshold(self) -> float:
        """The least score of an instance that is read."""
        return self._request.min_score

    @property
    def name(self) -> str:
        return self._view.name

    @property
    def prompts(self) -> list[str]:
        """In the order in which they were given."""
        return list(self._view.prompts.values())

    @property
    def columns(self) -> list[str]:
        """Those of the input."""
        return list(self._view.source.columns)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it was left to do when it was opened."""
        return self._view.state in status.OVER

    def __len__(self) -> int:
        """How many rows the source has."""
        return self._view.images - self._view.gone

    def __iter__(self) -> Iterator[Row]:
        """All rows in the order of the source. The memory does not grow with the run."""
        for image in self._images():
            yield self._row(image)

    def row(self, number: int) -> Row:
        """The row of this number, from 1. Raises `IndexError`."""
        found = read(_sessions(self._url), results.some_images, self._view.id, self._least_score, [number])
        if not found:
            raise IndexError(f"run {self.name} has no row {number}")
        return self._row(found[0])

    def dataset(self, make: Callable[[Row], Value]) -> "RunDataset[Value]":
        """Something for torch's `DataLoader`: `make(row)` for each row. Any number of workers may share it."""
        return RunDataset(self, make, read(_sessions(self._url), results.row_numbers, self._view.id))

    def to_pandas(self, *, flat: bool = False) -> "pd.DataFrame":
        """A row an image with nested results, or with `flat` a row an instance, as `sam3-export --format jsonl` has."""
        import pandas as pd

        records = Records(replace(self._request, flat=flat))
        rows = [record for image in self._images() for record in records.of(image)]
        return pd.DataFrame(rows, columns=[*records.input_columns, *records.columns])

    @property
    def _least_score(self) -> float:
        """Of instances to read: the run's own threshold tells segmented and empty apart."""
        return min(self.threshold, self._view.frozen.threshold)

    def _images(self) -> Iterator[ExportedImage]:
        return results.exported_images(_sessions(self._url), self._view.id, self._least_score)

    def _row(self, image: ExportedImage) -> Row:
        view = self._view
        return Row(
            number=image.row,
            path=image.path,
            place=place(view.source.root, image.path),
            cells=dict(zip(view.source.columns, input_cells(view, image), strict=True)),
            status=status_of(view, image),
            error_class=image.error_class,
            error=image.error,
            width=image.width,
            height=image.height,
            results=tuple(self._result(image, result) for result in image.results),
        )

    def _prompt(self, prompt_id: int) -> str:
        if prompt_id not in self._view.prompts:  # rows that came later have brought it
            view = read(_sessions(self._url), _view_of, self.name) or self._view
            self._request = replace(self._request, view=view)
        return self._view.prompts[prompt_id]

    def _result(self, image: ExportedImage, result: PromptResult) -> Result:
        size = image.height or 0, image.width or 0
        return Result(
            self._prompt(result.prompt_id),
            result.presence,
            result.capped,
            tuple(Instance(one.score, one.box, one.area, *size, one.rle) for one in wanted(self._request, result)),
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


def _sessions(url: str) -> Sessions:
    """The connections of this process: one that was forked must not use those of its parent."""
    key = os.getpid(), url
    if key not in _opened:
        _opened[key] = open_database(url)
    return _opened[key]


def _view_of(session: Any, name: str) -> RunView | None:
    run_id = run_id_of(session, name)
    return None if run_id is None else status.run_view(session, run_id)
