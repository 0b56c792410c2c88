"""What all export formats share: request and summary, safe writing. Knows no format and no SQL."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from db.exported import ExportedImage, ExportedInstance, ExportedResult, exported_images
from db.views import OVER, RunView
from producer.exports.so_far import require_exportable
from workers.errors import UsageError

Progress = Callable[[int], None]  # is told how many rows have been read so far


@dataclass(frozen=True)
class Request:
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


def read_images(session: Session, request: Request) -> Iterator[ExportedImage]:
    """The rows for any format: those of the source in its order.

    Instances come down to the run's threshold even if `min_score` is higher, so that segmented and empty
    can be told apart; the formats leave out what is below `min_score`. Raises `NotOver` after the last row if the run
    is not over by then, unless that was asked for: a retry or a delete may begin while an export reads for hours. A
    format that writes one file has not put it in its place yet.
    """
    min_score = min(request.min_score, request.view.threshold)
    yield from exported_images(session, request.view.id, min_score, gone=request.gone)
    require_exportable(session, request.view.id, partial=request.partial)


def counted(images: Iterable[ExportedImage], progress: Progress) -> Iterator[ExportedImage]:
    """Pass the images on and report after each how many are through."""
    for count, image in enumerate(images, start=1):
        yield image
        progress(count)


def wanted(request: Request, result: ExportedResult) -> list[ExportedInstance]:
    """The instances of a result to export, highest score first."""
    return [instance for instance in result.instances if instance.score >= request.min_score]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what the block wrote there takes the place of `path` if it ends well.

    Makes the folders above. Raises `UsageError` when the file cannot be written, or is being written by
    another process; nothing is left behind then.
    """
    with writing(path):
        target = Path(os.path.realpath(path))  # write through a symbolic link instead of replacing it
        if target.is_dir():
            raise UsageError(f"{path} is a folder: name a file to write, such as {path / 'export'}")
        if target.exists() and not target.is_file():
            raise UsageError(f"{path} is not an ordinary file: name another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Always the same name, so that the next export takes what a killed one left behind.
        name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]
        temporary = target.with_name(f".sam3-{name}.part")
        with _held(temporary, path):
            try:
                yield temporary
                os.replace(temporary, target)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise


@contextmanager
def _held(temporary: Path, path: Path) -> Iterator[None]:
    """Make `temporary`, or take what is there, and keep others from writing `path` until the block ends."""
    while True:
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            _lock(file, path)
            if _is_at(temporary, file):  # else whoever held it has just ended and renamed it
                yield
                return
        finally:
            os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path}: another export is writing it; wait for that one, or name another file") from None
    except OSError:
        return  # a file system without locks


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except FileNotFoundError:
        return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a `UsageError` of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UsageError(f"{path}: cannot write: {reason}; choose another place or make room there") from error
