"""What all export formats share: request and summary. Knows no format and no SQL."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from db.session import Sessions, read
from db.values import FoundInstance, PromptResult
from db.views.results import ExportedImage, exported_images
from db.views.status import OVER, RunView
from producer.results.so_far import require_exportable
from producer.results.targets import Targets

TellRows = Callable[[int], None]  # is told how many rows have been read so far


@dataclass(frozen=True)
class ExportRequest:
    """What to write, and where.

    `min_score` decides which instances are exported; whether an image counts as segmented is decided by the run's
    own threshold, and the outline of a mask by the run's mask threshold, which its RLE has built in.
    """

    view: RunView
    min_score: float
    out: Path  # a file, for png a folder
    select: str = "union"  # png: union, best (highest score) or largest instance of a result
    masks: Path | None = None  # csv: the folder that png masks were exported to
    gone: bool = False  # also the rows that the source no longer has, at the end
    partial: bool = False  # also a run that is not over: what there is so far
    targets: Targets | None = None  # what may be written over; without it only what our exports made

    @property
    def files(self) -> Targets:
        """Writes `out`, or what is below it."""
        return self.targets or Targets(self.out)

    @property
    def rows(self) -> int:
        """How many rows of the run there are to read."""
        return self.view.images if self.gone else self.view.images - self.view.gone

    @property
    def so_far(self) -> bool:
        """Whether the run was not over when `view` was read, so that the export is a part of it."""
        return self.view.state not in OVER


@dataclass(frozen=True)
class Summary:
    images: int  # rows in the CSV, images in COCO, done images looked at for PNG
    instances: int  # of at least min_score, without those that duplicates repeat
    files: int
    path: Path
    left_out: int = 0  # coco: instances of at least min_score whose mask has no pixel
    kept: int = 0  # png: files that were there already, made from the same instances
    blank_masks: int = 0  # csv: results with instances whose mask is not in the folder, or was made from others


def read_images(sessions: Sessions, request: ExportRequest) -> Iterator[ExportedImage]:
    """The rows for any format: those of the source in its order.

    Instances come down to the run's threshold even if `min_score` is higher, so that segmented and empty
    can be told apart; the formats leave out what is below `min_score`. Raises `NotOver` after the last row if the run
    is not over by then, unless that was asked for: a retry or a delete may begin while an export reads for hours. A
    format that writes one file has not put it in its place yet.
    """
    min_score = min(request.min_score, request.view.frozen.threshold)
    yield from exported_images(sessions, request.view.id, min_score, gone=request.gone)
    read(sessions, require_exportable, request.view.id, partial=request.partial)


def counting(images: Iterable[ExportedImage], tell: TellRows) -> Iterator[ExportedImage]:
    """Pass the images on, and tell after each one how many are through."""
    for count, image in enumerate(images, start=1):
        yield image
        tell(count)


def wanted(request: ExportRequest, result: PromptResult) -> list[FoundInstance]:
    """The instances of a result to export, highest score first."""
    return [instance for instance in result.instances if instance.score >= request.min_score]
