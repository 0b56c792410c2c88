"""Exports a run as a folder of LabelMe files, one for each image. Knows no SQL and no pixels.

The format: `read_label_file` in https://github.com/wkentaro/labelme/blob/main/labelme/_label_file.py.
"""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows, found_in
from producer.results.exports.export_folder import open_folder, write_folder
from producer.results.exports.mask_folder import digest
from producer.results.files.folder_writer import Piece
from producer.results.files.ledger import Ledger
from producer.results.files.names import mask_path
from producer.results.formats import Format, Places
from workers.places import location

TEMPLATE = "{stem}.json"  # LabelMe opens the file of this name with an image


def export_labelme(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write a file for each done image, also an empty one. It names the image by the way from its folder to it.

    Each part of an instance is a polygon, with its holes joined to it; `group_id` says which parts belong together. A
    file that somebody has saved is not ours any more, and is refused. Raises `UsageError` for that, and if the folder
    cannot be written or is not ours.
    """
    from producer.results.exports.pixels.polygons import labelme_shapes  # needs the libraries that `FORMAT` names

    folder, _ = open_folder(request, "labelme")
    root, classes = request.view.source.root, request.view.classes

    def pieces(image: ExportedImage) -> list[Piece]:
        target = request.out / mask_path("", image.path, root, folded=folder.folded, template=TEMPLATE)
        found = found_in(image)
        shown = [(classes[result.class_id].name, one.score, one.rle) for result, one in found]
        there = location.absolute(location.place(root, image.path))
        facts = {"imagePath": _way(target, there) if request.files.links else there, "imageData": None}
        height, width = image.height or 0, image.width or 0
        told = {"format": "labelme", **facts, "scores": [score for _, score, _ in shown]}
        made_from = digest(height, width, [one for _, one in found], told, [result.class_id for result, _ in found])
        return [Piece(target, made_from, labelme_shapes, (height, width, shown, facts))]

    signs = request.files.signs(request.view.name, partial(Ledger, request.out, request.files))
    return write_folder(request, images, progress, folder, signs, pieces)


def _way(file: Path, image: str) -> str:
    """The way from the folder of `file` to the image; its URL if it has one."""
    return image if location.is_url(image) else os.path.relpath(image, os.path.abspath(file.parent))


def places(request: ExportRequest) -> Places:
    return Places(partial(mask_path, "", root=request.view.source.root, template=TEMPLATE), once=True)


def is_ours(file: BinaryIO) -> bool:
    """LabelMe keeps unknown keys, so that no key could tell our files from saved ones. `Ledger` knows ours."""
    return False


FORMAT = Format(
    export_labelme,
    is_ours,
    ".json",
    stem="labelme",
    folder=True,
    needs=("numpy", "pycocotools", "cv2"),
    place=places,
)
