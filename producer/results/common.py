"""What all export formats share: the request, the summary, and reading the images. Knows no format and no SQL."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from db.session import Sessions, read
from db.values import ClassResult, FoundInstance
from db.views.results import Asked, ExportedImage, exported_images
from db.views.run_views import RunView
from producer.results.choice import Choice, Chooser
from producer.results.files.targets import Targets
from producer.results.so_far import require_exportable
from producer.slugs import prompt_slugs

OfImage = TypeVar("OfImage")
TellRows = Callable[[int], None]  # is called with the number of rows read so far


@dataclass(frozen=True)
class ExportRequest:
    """What to write, and where."""

    view: RunView
    choice: Choice  # which instances are written
    out: Path  # a file; for png a folder
    select: str = "union"  # png: union of a result's instances, the best (highest score), or the largest
    masks: Path | None = None  # csv: the folder with the png masks
    gone: bool = False  # whether rows that the source no longer has are exported, too, at the end
    flat: bool = False  # tables with nested values: a row for each instance instead of one for each image
    partial: bool = False  # whether a run that is not over may be exported
    targets: Targets | None = None  # writes the files; None: one that replaces only files of our exports
    only: tuple[str, ...] = ()  # values of sam3_status, or capped: rows with a capped result; none: all rows
    chosen: Sequence[int] | None = None  # numbers of rows in rising order: no other rows; None: all rows
    rows_file: Path | None = None  # the file that `chosen` comes from, for hints
    jobs: int | None = None  # formats that make files in helper processes: how many; None: as many as fit this machine
    own: Mapping[str, Any] = field(default_factory=dict)  # flags that only this format has, by name
    command: str | None = None  # writes the same content again, given an -o; None: no command asked for this

    @property
    def choose(self) -> Chooser:
        """Applies the choice to what was found in single images."""
        return Chooser(self.view, self.choice)

    @property
    def files(self) -> Targets:
        """Writes the file `out`, or files in the folder `out`."""
        return self.targets or Targets(self.out)

    @property
    def rows(self) -> int:
        """How many rows of the run will be read."""
        if self.chosen is not None:
            return len(self.chosen)
        return self.view.images if self.gone else self.view.images - self.view.gone

    @property
    def so_far(self) -> bool:
        """Whether the run was not over when `view` was read, so that the export holds only a part of it."""
        return not self.view.over


@dataclass(frozen=True)
class Summary:
    """What an export wrote."""

    images: int  # csv: rows; coco: images; png: done images
    instances: int  # that were chosen; instances of duplicates are not counted again
    files: int
    path: Path
    left_out: int = 0  # coco: chosen instances whose mask has no pixel
    kept: int = 0  # png: files that existed already and were made from the same instances
    blank_masks: int = 0  # csv: results whose mask is missing in the folder or was made from other instances
    told: tuple[str, ...] = ()  # what else the user must know, each in a few words


def read_images(sessions: Sessions, request: ExportRequest) -> Iterator[ExportedImage]:
    """The rows that a format writes, in the source's order, with the instances of `request.choice`.

    Raises `NotOver` after the last row if the run is not over then, unless `request.partial`: a retry or a delete may
    begin while an export reads for hours. A format that writes one file puts it in its place only after that.
    """
    choose = request.choose
    asked = Asked(request.chosen, request.gone, request.view.prompts)  # prompts that were added since are not known
    images = exported_images(sessions, request.view.id, choose.least_score, choose, asked)
    yield from images if not request.only else (image for image in images if _is_one_of(request, image))
    read(sessions, require_exportable, request.view.id, partial=request.partial)


def _is_one_of(request: ExportRequest, image: ExportedImage) -> bool:
    capped = "capped" in request.only and any(result.capped for result in image.results)
    return capped or image.status in request.only


def counting(images: Iterable[OfImage], tell: TellRows) -> Iterator[OfImage]:
    """Yield the images, or what belongs to each, and call `tell` after each with the number of images so far."""
    for count, image in enumerate(images, start=1):
        yield image
        tell(count)


def found_in(image: ExportedImage) -> list[tuple[ClassResult, FoundInstance]]:
    """The instances of an image, each with its result, in the order of the results."""
    return [(result, instance) for result in image.results for instance in result.instances]


def class_slugs(view: RunView) -> dict[int, str]:
    """The names of the classes in files and columns, by id."""
    slugs = prompt_slugs(one.name for one in view.classes.values())
    return {id: slugs[one.name] for id, one in view.classes.items()}


def input_cells(view: RunView, image: ExportedImage) -> list[Any]:
    """The row's cells as they were read: text, or values as JSON has them if the source has types.

    The cell of the path is stored only if it differs from the path.
    """
    cells = {view.source.image_column: image.path} | (image.cells or {})
    missing = "" if view.source.types is None else None
    return [cells.get(column, missing) for column in view.source.columns]


def cell_text(cell: Any) -> str:
    """A cell as a format of text has it: numbers, true and false as in JSON, nothing for null, lists as JSON."""
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
