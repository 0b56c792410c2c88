"""The run as a folder of PNG masks that mirrors the input tree. Knows files, but no SQL, no pixels and no Celery."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from db.models import ImageState
from db.values import PromptResult
from db.views.results import ExportedImage
from producer.layout import MASK_HEAD_BYTES, is_mask
from producer.results.common import ExportRequest, Summary, TellRows, counting, wanted
from producer.results.formats import Format
from producer.results.helpers import Helpers, processes
from producer.results.mask_folder import (
    MANIFEST,
    MaskFolder,
    chosen,
    digest,
    holds,
    is_manifest,
    is_of_run,
    read_mask_folder,
    texts,
)
from producer.results.names import folds_names, mask_path
from producer.results.targets import Targets, writing
from producer.slugs import prompt_slugs
from workers.errors import UsageError

PNG_START = b"\x89PNG\r\n\x1a\n"
SELECTIONS = ("union", "best", "largest")
PAGE_IMAGES = 500  # the database is asked once for so many whether a mask would replace an input
FEW = 8  # masks that are drawn sooner than a process for it would have started


def export_png(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write a mask (0 and 255, 8 bits, at the image's size) for every result with an instance of at least `min_score`.

    A mask that is there already and was made from the same instances stays as it is. A result without an instance has
    no file; a mask that an earlier export of the same run left in its place is removed. Other files are never deleted.
    Duplicates share the file of their first row. Several processes draw at once. Raises `UsageError` when `out` is not
    a folder, holds the masks of another run or anything in a mask's place that is not ours, or cannot be written.
    """
    with MaskWriter(request) as masks:
        for image in counting(masks.looked_up(images), progress):
            masks.add(image)
        masks.finish()
    return masks.summary()


@dataclass(frozen=True)
class _Mask:
    """One mask as it should be."""

    target: Path
    height: int
    width: int
    rles: tuple[bytes, ...]  # without any there is no mask
    digest: str


class MaskWriter:
    """Brings the masks of images into the state that `request` asks for. One thread may use it.

    `add` waits while several images are in hand, so that memory stays flat. Threads look at the files, since a network
    file system answers late, and processes draw, since that takes all the time.
    """

    def __init__(self, request: ExportRequest) -> None:
        """Raises `UsageError` if the folder is a file, cannot be written, or holds the masks of another run."""
        if request.select not in SELECTIONS:
            raise UsageError(f"--select {request.select}: choose one of {', '.join(SELECTIONS)}")
        from producer.results.drawing import draw  # needs what `FORMAT` says

        self._request, self._draw = request, draw
        self._targets = request.files
        self._folder = _open_folder(request, self._targets)
        self._slugs = prompt_slugs(request.view.prompts.values())
        self._helpers = Helpers()
        self._threads = ThreadPoolExecutor(processes(), "masks")
        self._change = threading.Condition()  # guards all below
        self.in_hand: set[Path] = set()
        self._error: BaseException | None = None
        self._stopped = False
        self._drawn = 0
        self.images = self.instances = self.written = self.kept = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave what waits, finish what is in hand, and end the processes."""
        self._stopped = True
        self._threads.shutdown(cancel_futures=True)
        self._helpers.close()

    def looked_up(self, images: Iterable[ExportedImage]) -> Iterator[ExportedImage]:
        """The images, after asking for many at once which of their masks would replace a run's input.

        `add` asks by itself for images that did not come this way.
        """
        left = iter(images)
        while page := list(itertools.islice(left, PAGE_IMAGES)):
            self._targets.look_up([self._target(image, result) for image in page for result in image.results])
            yield from page

    def add(self, image: ExportedImage) -> None:
        """See to the masks of an image, now or later. Raises what went wrong with this or an earlier one."""
        if image.state != ImageState.DONE:
            return
        self.images += 1
        for result in image.results:
            mask = self._mask(image, result)
            with self._change:
                self._change.wait_for(partial(self._has_room, mask))
                self.check()
                self.in_hand.add(mask.target)
            self._threads.submit(self._settle, mask)

    def check(self) -> None:
        """Raise what went wrong so far."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until everything is written. Raises what went wrong."""
        with self._change:
            self._change.wait_for(lambda: not self.in_hand)
            self.check()
        self._tell(complete=True)

    def summary(self) -> Summary:
        return Summary(self.images, self.instances, self.written + self.kept, self._request.out, kept=self.kept)

    def _mask(self, image: ExportedImage, result: PromptResult) -> _Mask:
        found = wanted(self._request, result)
        self.instances += len(found)
        instances = chosen(found, self._request.select)
        height, width = image.height or 0, image.width or 0
        rles = tuple(instance.rle for instance in instances)
        return _Mask(self._target(image, result), height, width, rles, digest(height, width, instances))

    def _target(self, image: ExportedImage, result: PromptResult) -> Path:
        view = self._request.view
        slug = self._slugs[view.prompts[result.prompt_id]]
        return self._request.out / mask_path(slug, image.path, view.source.root, folded=self._folder.folded)

    def _has_room(self, mask: _Mask) -> bool:
        # Two rows of one image may have a prompt in common: one after the other then.
        return self._error is not None or (len(self.in_hand) < 4 * processes() and mask.target not in self.in_hand)

    def _settle(self, mask: _Mask) -> None:
        try:
            if not self._stopped:
                self._bring_about(mask)
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._change:
                self.in_hand.discard(mask.target)
                self._change.notify_all()

    def _bring_about(self, mask: _Mask) -> None:
        run = self._request.view.name
        if not mask.rles:
            if is_of_run(mask.target, run):
                self._targets.check(mask.target)
                with writing(mask.target):
                    mask.target.unlink()
        elif holds(mask.target, mask.digest):
            with self._change:
                self.kept += 1
        else:
            with self._change:
                self._tell(complete=False)
                self._drawn += 1
                few = self._drawn <= FEW
            given = (mask.height, mask.width, mask.rles, texts(run, mask.digest))
            png = self._draw(*given) if few else self._helpers.call(self._draw, *given)
            with self._targets.replacing(mask.target) as temporary:
                temporary.write_bytes(png)
            with self._change:
                self.written += 1

    def _tell(self, *, complete: bool) -> None:
        """Write down beside the masks how they are made, if that does not stand there yet."""
        new = replace(self._folder, complete=complete)
        if new != self._folder or read_mask_folder(self._request.out) is None:
            with self._targets.replacing(self._request.out / MANIFEST, is_manifest) as temporary:
                temporary.write_text(new.as_json(), "utf-8")
        self._folder = new


def _open_folder(request: ExportRequest, targets: Targets) -> MaskFolder:
    """Make the folder, or see whose it is, and return what is to be written down in it."""
    out, view = request.out, request.view
    targets.make_folder(out)
    there = read_mask_folder(out)
    if there is not None and not there.belongs_to(view):
        other = f"{there.run} of {there.source}" if there.run == view.name else there.run
        raise UsageError(f"{out} holds the masks of run {other}: choose another folder for those of {view.name}")
    with writing(out):
        folded = folds_names(out) or (there is not None and there.folded)
    new = MaskFolder(view.name, view.uid, view.source.path, request.min_score, request.select, folded)
    return there if there is not None and replace(there, complete=False) == new else new


def is_ours(file: BinaryIO) -> bool:
    """Whether it is a PNG with the mark that all our masks have."""
    head = file.read(MASK_HEAD_BYTES)
    return head.startswith(PNG_START) and is_mask(head)


FORMAT = Format(
    export_png,
    is_ours,
    ".png",
    folder=True,
    takes={"select": "masks of several instances"},
    needs=("numpy", "PIL", "pycocotools"),
)
