"""Exports a run as a folder of PNG masks that mirrors the input's folders. Knows files, but no SQL and no pixels."""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from db.states import ImageState
from db.values import FoundInstance
from db.views.results import ExportedImage
from db.views.run_views import RunView
from producer.layout import MASK_HEAD_BYTES, is_mask
from producer.results.common import ExportRequest, Summary, TellRows, counting, found_in
from producer.results.exports.export_folder import read_export_folder
from producer.results.exports.mask_folder import (
    MANIFEST,
    MaskFolder,
    chosen,
    digest,
    holds,
    is_of_run,
    read_mask_folder,
    texts,
)
from producer.results.exports.mask_style import PROMPT, MaskStyle
from producer.results.exports.per_result import PerResult, places
from producer.results.exports.provenance import provenance
from producer.results.files.folder_writer import Closed, EmbeddedSigns, FolderWriter, Piece, in_pages
from producer.results.files.targets import Targets
from producer.results.formats import Format, Places
from workers.errors import UsageError

PNG_START = b"\x89PNG\r\n\x1a\n"
SELECTIONS = ("union", "best", "largest")
LEGEND = "legend.json"  # what the numbers of label maps mean


def export_png(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write a mask (height x width of the image, 8 bits, 0 or 255) for each result with an instance.

    `MaskStyle` says what else a mask may be. A mask that exists and was made from the same instances in the same way
    stays as it is. A result without an instance has no file, unless the style has masks of empty results: a mask of it
    that an earlier export of the same run wrote is removed. Other files are never deleted. Duplicates share the file of
    their first row. Several processes draw at once. Raises `UsageError` if `out` is no folder, holds the masks of
    another run or other names, has a file that is not ours at the place of a mask, or cannot be written.
    """
    with MaskWriter(request) as masks:
        masks.add_all(images, progress)
        masks.finish()
    return masks.summary()


class MaskWriter(Closed):
    """Writes and removes masks until the folder is as `request` asks. Only one thread may use an object.

    `add` waits while many masks are in hand, so that memory does not grow.
    """

    def __init__(self, request: ExportRequest) -> None:
        """Raises `UsageError` if the folder is a file, cannot be written, or holds other masks."""
        if request.select not in SELECTIONS:
            raise UsageError(f"--select {request.select}: choose one of {', '.join(SELECTIONS)}")
        self._request, self._targets = request, request.files
        self._folder = _open_folder(request, self._targets)
        self._style = self._folder.style
        self._pieces = _Pieces(request, self._folder)
        self._manifest = threading.Lock()
        run = request.view.name
        signs = self._targets.signs(run, partial(EmbeddedSigns, run, holds, is_of_run))
        self._files = FolderWriter(self._targets, signs, partial(self._write_manifest, complete=False), request.jobs)
        self.images = self.instances = 0

    def close(self) -> None:
        """Drop waiting masks, finish the masks in hand, and end the helper processes."""
        self._files.close()

    @property
    def in_hand(self) -> set[Path]:
        return self._files.in_hand

    def add_all(self, images: Iterable[ExportedImage], progress: TellRows) -> None:
        """`add` all these images, which is quicker at once, and tell the progress."""
        for image, pieces in counting(in_pages(self._targets, images, self._pieces.of), progress):
            self._add(image, pieces)

    def add(self, image: ExportedImage) -> None:
        """Have the masks of an image written by a thread. Raises the first error of any mask so far."""
        self._add(image, self._pieces.of(image))

    def _add(self, image: ExportedImage, pieces: Iterable[Piece]) -> None:
        if image.state != ImageState.DONE:
            return
        self.images += 1
        self.instances += len(found_in(image))
        for piece in pieces:
            self._files.add(piece)

    def check(self) -> None:
        """Raise the first error of any mask so far."""
        self._files.check()

    def finish(self) -> None:
        """Wait until all masks are written, and record that. Raises the first error of any mask."""
        self._files.finish()
        self._write_manifest(complete=True)

    def summary(self) -> Summary:
        files = self._files
        return Summary(self.images, self.instances, files.written + files.kept, self._request.out, kept=files.kept)

    def _write_manifest(self, *, complete: bool) -> None:
        """Record in the folder how its masks are made, unless its manifest says so already."""
        with self._manifest:
            new = replace(self._folder, complete=complete)
            if new != self._folder or read_mask_folder(self._request.out, self._targets) is None:
                with self._targets.replacing(self._request.out / MANIFEST, MaskFolder.is_ours) as temporary:
                    temporary.write_text(new.as_json(), "utf-8")
                if new.style.index:
                    with self._targets.replacing(self._request.out / LEGEND, is_legend) as temporary:
                        temporary.write_text(_legend(self._request.view, new.style.index), "utf-8")
            self._folder = new


class _Pieces:
    """Says which files an image should have."""

    def __init__(self, request: ExportRequest, folder: MaskFolder) -> None:
        from producer.results.exports.pixels import drawing  # needs the libraries that `FORMAT` names

        self._drawing = drawing
        self._request, self._style = request, folder.style
        self._files = PerResult(request, folder.style, folded=folder.folded)

    def of(self, image: ExportedImage) -> list[Piece]:
        if image.state != ImageState.DONE:
            return []
        return [self._label_map(image)] if self._style.index else self._files.pieces(image, self._mask)

    def _mask(self, image: ExportedImage, target: Path, instances: Sequence[FoundInstance]) -> Piece:
        height, width = image.height or 0, image.width or 0
        made_from = digest(height, width, instances, self._style.edits)
        if not (instances or self._style.empty):
            return Piece(target, made_from, None)
        rles = tuple(instance.rle for instance in instances)
        given = (height, width, rles, texts(self._request.view.name, made_from), self._style.edits)
        return Piece(target, made_from, self._drawing.draw, given)

    def _label_map(self, image: ExportedImage) -> Piece:
        """One for all classes of the image; where masks overlap, the one with the higher score is in front."""
        view = self._request.view
        colours = {id: one.colour for id, one in view.classes.items() if one.colour}
        drawn = [
            (result.class_id, instance)
            for result in image.results
            for instance in chosen(result.instances, self._request.select)
        ]
        drawn.sort(key=lambda one: -one[1].score)
        numbers = [of_class if self._style.index == PROMPT else n for n, (of_class, _) in enumerate(drawn, start=1)]
        of_classes = self._style.index == PROMPT
        most, colours = (max(view.classes), colours) if of_classes else (len(drawn), {})
        height, width, how = image.height or 0, image.width or 0, {"index": self._style.index, "most": most}
        how |= {"colours": str(sorted(colours.items()))} if colours else {}
        made_from = digest(height, width, [instance for _, instance in drawn], how, numbers)
        target = self._files.target(image, "")
        if not (drawn or self._style.empty):
            return Piece(target, made_from, None)
        labelled = tuple((number, instance.rle) for number, (_, instance) in zip(numbers, drawn, strict=True))
        given = (height, width, labelled, texts(view.name, made_from), most, colours)
        return Piece(target, made_from, self._drawing.draw_labels, given)


def _open_folder(request: ExportRequest, targets: Targets) -> MaskFolder:
    """Make the folder or check that it may be used, and return the manifest that it should have."""
    out, view, style = request.out, request.view, MaskStyle(**request.own)
    targets.make_folder(out)
    shown, there = targets.shown(out), read_mask_folder(out, targets)
    if (other_format := read_export_folder(request)) is not None:
        raise UsageError(f"{shown} holds files of the format {other_format.format}: choose another -o for png")
    if there is not None and not there.belongs_to(view):
        other = f"{there.run} of {there.source}" if there.run == view.name else there.run
        raise UsageError(f"{shown} holds the masks of run {other}: choose another folder for those of {view.name}")
    if there is not None and there.style.layout != style.layout:
        how = " ".join(there.style.typed()) or "none of --each, --index and --name"
        raise UsageError(f"{shown} holds masks of other names ({how}): choose another -o for these")
    folded = targets.folds_names() or (there is not None and there.folded)
    new = MaskFolder(
        run=view.name,
        uid=view.uid,
        source=view.source.path,
        choice=request.choice,
        select=request.select,
        folded=folded,
        style=style,
        origin=provenance(request),
    )
    return there if there is not None and replace(there, complete=False) == new else new


def _legend(view: RunView, index: str) -> str:
    """What the numbers of the label maps mean, as JSON."""
    facts: dict[str, Any] = {"sam3_legend": index, "run": view.name, "0": "nothing was found here"}
    if index == PROMPT:
        facts |= {str(id): one.name for id, one in sorted(view.classes.items())}
    else:
        facts["1, 2, 3, ..."] = "the instances of the image, of all prompts, from the highest score on"
    return json.dumps(facts, ensure_ascii=False, indent=1) + "\n"


def is_legend(file: BinaryIO) -> bool:
    """Whether we wrote this file, so that it may be replaced."""
    return file.read(64).startswith(b'{\n "sam3_legend": ')


def own_places(request: ExportRequest) -> Places | None:
    style = MaskStyle(**request.own)
    return places(request, style.template, whole=style.index is not None)


def is_ours(file: BinaryIO) -> bool:
    """Whether the file is a PNG with the mark of our masks."""
    head = file.read(MASK_HEAD_BYTES)
    return head.startswith(PNG_START) and is_mask(head)


FORMAT = Format(
    export_png,
    is_ours,
    ".png",
    folder=True,
    takes={
        "select": "masks of several instances",
        **dict.fromkeys(MaskStyle.__dataclass_fields__, "masks that are made in that way"),
    },
    needs=("numpy", "PIL", "pycocotools"),
    extra="export",
    place=own_places,
)
