"""Exports a run as a folder of PNG masks that mirrors the input's folders. Knows files, but no SQL and no pixels."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from db.states import ImageState
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
PAGE_IMAGES = 500  # images for which the database is asked at once whether their masks would replace inputs
FEW = 8  # the first masks are drawn in this process, which is quicker than to start a helper


def export_png(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write a mask (height x width of the image, 8 bits, 0 or 255) for each result with an instance of `min_score`.

    A mask that exists and was made from the same instances stays as it is. A result without an instance has no file: a
    mask of it that an earlier export of the same run wrote is removed. Other files are never deleted. Duplicates share
    the file of their first row. Several processes draw at once. Raises `UsageError` if `out` is no folder, holds the
    masks of another run, has a file that is not ours at the place of a mask, or cannot be written.
    """
    with MaskWriter(request) as masks:
        for image in counting(masks.in_looked_up_pages(images), progress):
            masks.add(image)
        masks.finish()
    return masks.summary()


@dataclass(frozen=True)
class _Mask:
    """One mask as it should be on disk."""

    target: Path
    height: int
    width: int
    rles: tuple[bytes, ...]  # empty: there should be no file
    digest: str  # see `mask_folder.digest`


class MaskWriter:
    """Writes and removes masks until the folder is as `request` asks. Only one thread may use an object.

    `add` waits while many masks are in hand, so that memory does not grow. Threads check the files, since a network
    file system answers slowly, and helper processes draw, since drawing takes most of the time.
    """

    def __init__(self, request: ExportRequest) -> None:
        """Raises `UsageError` if the folder is a file, cannot be written, or holds the masks of another run."""
        if request.select not in SELECTIONS:
            raise UsageError(f"--select {request.select}: choose one of {', '.join(SELECTIONS)}")
        from producer.results.drawing import draw  # needs the libraries that `FORMAT` names

        self._request, self._draw = request, draw
        self._targets = request.files
        self._folder = _open_folder(request, self._targets)
        self._slugs = prompt_slugs(request.view.prompts.values())
        self._helpers = Helpers()
        self._threads = ThreadPoolExecutor(processes(), "masks")
        self._change = threading.Condition()  # guards all attributes below
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
        """Drop waiting masks, finish the masks in hand, and end the helper processes."""
        self._stopped = True
        self._threads.shutdown(cancel_futures=True)
        self._helpers.close()

    def in_looked_up_pages(self, images: Iterable[ExportedImage]) -> Iterator[ExportedImage]:
        """Yield the images, after asking for a page of them at once which masks would replace an input of a run.

        This is quicker than `add`, which asks for each other image by itself.
        """
        left = iter(images)
        while page := list(itertools.islice(left, PAGE_IMAGES)):
            self._targets.look_up([self._target(image, result) for image in page for result in image.results])
            yield from page

    def add(self, image: ExportedImage) -> None:
        """Have the masks of an image written by a thread. Raises the first error of any mask so far."""
        if image.state != ImageState.DONE:
            return
        self.images += 1
        for result in image.results:
            mask = self._mask(image, result)
            with self._change:
                self._change.wait_for(partial(self._has_room, mask))
                self.check()
                self.in_hand.add(mask.target)
            self._threads.submit(self._update_in_thread, mask)

    def check(self) -> None:
        """Raise the first error of any mask so far."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all masks are written, and record that. Raises the first error of any mask."""
        with self._change:
            self._change.wait_for(lambda: not self.in_hand)
            self.check()
        self._write_manifest(complete=True)

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
        # Two rows with the same path may have the same prompt: their common mask is written twice, one after the other.
        return self._error is not None or (len(self.in_hand) < 4 * processes() and mask.target not in self.in_hand)

    def _update_in_thread(self, mask: _Mask) -> None:
        try:
            if not self._stopped:
                self._update(mask)
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._change:
                self.in_hand.discard(mask.target)
                self._change.notify_all()

    def _update(self, mask: _Mask) -> None:
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
                self._write_manifest(complete=False)
                self._drawn += 1
                few = self._drawn <= FEW
            given = (mask.height, mask.width, mask.rles, texts(run, mask.digest))
            png = self._draw(*given) if few else self._helpers.call(self._draw, *given)
            with self._targets.replacing(mask.target) as temporary:
                temporary.write_bytes(png)
            with self._change:
                self.written += 1

    def _write_manifest(self, *, complete: bool) -> None:
        """Record in the folder how its masks are made, unless its manifest says so already."""
        new = replace(self._folder, complete=complete)
        if new != self._folder or read_mask_folder(self._request.out) is None:
            with self._targets.replacing(self._request.out / MANIFEST, is_manifest) as temporary:
                temporary.write_text(new.as_json(), "utf-8")
        self._folder = new


def _open_folder(request: ExportRequest, targets: Targets) -> MaskFolder:
    """Make the folder or check that it may be used, and return the manifest that it should have."""
    out, view = request.out, request.view
    targets.make_folder(out)
    there = read_mask_folder(out)
    if there is not None and not there.belongs_to(view):
        other = f"{there.run} of {there.source}" if there.run == view.name else there.run
        raise UsageError(f"{out} holds the masks of run {other}: choose another folder for those of {view.name}")
    with writing(out):
        folded = folds_names(out) or (there is not None and there.folded)
    new = MaskFolder(
        run=view.name,
        uid=view.uid,
        source=view.source.path,
        threshold=request.min_score,
        select=request.select,
        folded=folded,
        min_area=request.min_area,
        max_instances=request.max_instances,
    )
    return there if there is not None and replace(there, complete=False) == new else new


def is_ours(file: BinaryIO) -> bool:
    """Whether the file is a PNG with the mark of our masks."""
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
