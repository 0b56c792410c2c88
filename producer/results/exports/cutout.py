"""Exports a run as a folder of PNGs with what was found cut out of its images. Knows no SQL and no pixels."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from db.values import FoundInstance
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows
from producer.results.exports.export_folder import open_folder, write_folder
from producer.results.exports.mask_folder import digest, holds, is_of_run, texts
from producer.results.exports.mask_style import MaskStyle
from producer.results.exports.per_result import PerResult, places
from producer.results.files.folder_writer import EmbeddedSigns, Piece
from producer.results.formats import Format, Places
from workers.errors import UsageError
from workers.places import location

OF_MASKS = ("each", "dilate", "feather", "name")  # flags of a `MaskStyle` that fit cut-outs


def export_cutouts(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write a PNG for each result with an instance, see `cutting.cut_out`.

    Files are named and kept as those of the format png. An image that can no longer be read, or has another size than
    when it was segmented, is left out and counted. Raises `UsageError` for flags that do not fit, and if the folder
    cannot be written or is not ours.
    """
    cuts = _Cuts(request)
    folder, there = open_folder(request, "cutout")
    if there is not None and _style(there.made).layout != cuts.style.layout:
        raise UsageError(
            f"{request.files.shown(request.out)} holds cut-outs of other names: choose another -o for these"
        )
    run = request.view.name
    signs = request.files.signs(run, partial(EmbeddedSigns, run, holds, is_of_run))
    files = PerResult(request, cuts.style, folded=folder.folded)
    return write_folder(request, images, progress, folder, signs, lambda image: files.pieces(image, cuts.piece))


class _Cuts:
    """Says how the file of some instances is made."""

    def __init__(self, request: ExportRequest) -> None:
        from producer.results.exports.pixels import cutting  # needs the libraries that `FORMAT` names
        from producer.results.reading import rules_of_exports

        self.style = _style(request.own)
        background = request.own.get("background")
        if background and (fault := cutting.colour_fault(background)):
            raise UsageError(f"--background {background}: {fault}")
        self._make = cutting.cut_out
        self._cut = cutting.Cut(bool(request.own.get("crop")), background, self.style.edits)
        self._request, self._rules = request, rules_of_exports(request.view)

    def piece(self, image: ExportedImage, target: Path, instances: Sequence[FoundInstance]) -> Piece:
        height, width = image.height or 0, image.width or 0
        made_from = digest(height, width, instances, {"format": "cutout", **asdict(self._cut)})
        if not instances:
            return Piece(target, made_from, None)
        place = location.place(self._request.view.source.root, image.path)
        rles, marks = tuple(instance.rle for instance in instances), texts(self._request.view.name, made_from)
        return Piece(
            target,
            made_from,
            self._make,
            (place, self._rules, (height, width, image.file_size), rles, self._cut, marks),
        )


def _style(own: Any) -> MaskStyle:
    return MaskStyle(**{flag: own[flag] for flag in OF_MASKS if flag in own})


def own_places(request: ExportRequest) -> Places | None:
    return places(request, _style(request.own).template)


def is_ours(file: BinaryIO) -> bool:
    """Cut-outs have the marks of masks, which the format png knows."""
    return False


FORMAT = Format(
    export_cutouts,
    is_ours,
    ".png",
    stem="cutouts",
    folder=True,
    takes={
        "select": "masks of several instances",
        **dict.fromkeys(OF_MASKS, "masks that are made in that way"),
        "crop": "pictures",
        "background": "pictures",
    },
    needs=("numpy", "PIL", "pycocotools", "simplejpeg"),
    place=own_places,
)
