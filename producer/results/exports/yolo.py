"""Exports a run as a folder that Ultralytics trains from: YOLO segmentation labels. Knows no SQL and no pixels.

The format: https://docs.ultralytics.com/datasets/segment/.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import yaml

from db.views.results import ExportedImage
from producer.layout import LINKS
from producer.results.common import ExportRequest, Summary, TellRows, found_in
from producer.results.exports import original
from producer.results.exports.export_folder import open_folder, write_folder
from producer.results.exports.mask_folder import digest
from producer.results.exports.provenance import provenance
from producer.results.files.folder_writer import Piece
from producer.results.files.ledger import Ledger
from producer.results.files.names import mask_path
from producer.results.formats import Format, Places
from workers.errors import UsageError
from workers.places import location

START = b"# sam3-queue: YOLO segmentation labels"
PARTS = ("train", "val")
SPLIT = 0.9  # share of the images in the first part
# Ultralytics finds the label of an image by the last folder of this name in its path.
_LIKE_IMAGES = re.compile(r"images_*\Z")
# Ultralytics takes no other suffixes: `IMG_FORMATS` in ultralytics/data/utils.py.
SUFFIXES = ("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpeg2000", "jpg", "mpo", "png", "tif", "tiff", "webp")


def export_yolo(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write a label for each done image, also an empty one, a link to each image or a copy, and `data.yaml`.

    The number of a class is its place in the order of their ids, from 0. An instance is one polygon; its parts and
    holes are joined by lines (`polygons.one_polygon`). Which part an image is in depends on its path alone. A label
    that somebody has changed is refused, since it is not ours any more. Raises `UsageError` for that, and if the folder
    cannot be written or is not ours.
    """
    folder, there = open_folder(request, "yolo-seg")
    request.files.check(request.out / "data.yaml")  # it is written last, and labels beside a foreign one would be half
    dataset = _Dataset(request, folder.folded, ours=there is not None)
    moved = there is not None and there.made.get("split", SPLIT) != dataset.split
    signs = request.files.signs(request.view.name, partial(Ledger, request.out, request.files))
    summary = write_folder(request, images, progress, folder, signs, partial(dataset.pieces, moved=moved))
    with request.files.replacing(request.out / "data.yaml") as temporary:
        temporary.write_bytes(dataset.description())
    return Summary(**vars(summary) | {"told": (*summary.told, *dataset.told())})


class _Dataset:
    """Names the files of images and labels, and links the images."""

    def __init__(self, request: ExportRequest, folded: bool, *, ours: bool) -> None:
        from producer.results.exports.pixels.polygons import yolo_label  # needs the libraries that `FORMAT` names

        self._make = yolo_label
        self._request, self._folded, self._ours = request, folded, ours
        self._classes = {id: number for number, id in enumerate(sorted(request.view.classes))}
        self.split = float(request.own.get("split", SPLIT))
        self._images = dict.fromkeys(PARTS, 0)
        self._unknown_suffixes = 0

    def pieces(self, image: ExportedImage, *, moved: bool) -> list[Piece]:
        """The label of the image, and with `moved` the removal of its label and copy in the other part.

        `moved`: an earlier export has split the images in another way.
        """
        part = self.part(image.path)
        place = label_place(image.path, self._request.view.source.root, folded=self._folded)
        self._images[part] += 1
        self._unknown_suffixes += PurePosixPath(image.path).suffix.lower()[1:] not in SUFFIXES
        [other] = set(PARTS) - {part}
        files = [self._label(image, self._request.out / "labels" / part / place)]
        stale = [self._request.out / "labels" / other / place] if moved else []
        if self._request.files.links:
            self._link(image, part, place)
            if moved:
                self._request.files.unlink(self._link_to(image, other, place))
        else:
            files.append(self._copy(image, self._link_to(image, part, place)))
            stale += [self._link_to(image, other, place)] if moved else []
        return [*files, *(Piece(file, "", None) for file in stale)]

    def part(self, path: str) -> str:
        """The part that the image is in, for ever: it depends on a checksum of its path."""
        checksum = hashlib.blake2b(location.normal(path).encode(errors="surrogateescape"), digest_size=8).digest()
        return PARTS[int.from_bytes(checksum, "big") >= self.split * 2**64]

    def description(self) -> bytes:
        """The content of data.yaml. It has no `path`, so that its folders are those beside it, wherever it is."""
        facts = {
            **{part: f"{LINKS}/{self._shown(part)}" for part in PARTS},
            "names": {number: self._request.view.classes[id].name for id, number in self._classes.items()},
        }
        made = json.dumps(provenance(self._request), ensure_ascii=True)
        return START + f"\n# {made}\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}".encode()

    def _shown(self, part: str) -> str:
        """What data.yaml names for a part: the other one if this one is empty, as Ultralytics needs images in both."""
        [other] = set(PARTS) - {part}
        return part if self._images[part] or not self._images[other] else other

    def told(self) -> tuple[str, ...]:
        told = [
            f"{self._images[part]} for {part}"
            + ("" if (shown := self._shown(part)) == part else f", so {part} is {shown}")
            for part in PARTS
        ]
        if self._unknown_suffixes:
            told.append(f"{self._unknown_suffixes} with a suffix that Ultralytics does not read")
        return tuple(told)

    def _label(self, image: ExportedImage, target: Path) -> Piece:
        found = [(self._classes[result.class_id], one) for result, one in found_in(image)]
        height, width = image.height or 0, image.width or 0
        numbers = [number for number, _ in found]
        made_from = digest(height, width, [instance for _, instance in found], {"format": "yolo-seg"}, numbers)
        return Piece(target, made_from, self._make, (height, width, [(number, one.rle) for number, one in found]))

    def _link(self, image: ExportedImage, part: str, place: PurePosixPath) -> None:
        there = location.absolute(location.place(self._request.view.source.root, image.path))
        if location.is_url(there):
            raise UsageError(
                f"yolo-seg: {location.shown(there)} is in a bucket, and the folder of a dataset has links to files "
                "of a disk: copy the images to a folder and segment that, or export webdataset, which holds the images"
            )
        self._request.files.link(self._link_to(image, part, place), there, ours=self._ours)

    def _copy(self, image: ExportedImage, target: Path) -> Piece:
        given = original.given(self._request, image)
        made_from = hashlib.sha256(repr(("image", *given)).encode(errors="surrogateescape")).hexdigest()[:32]
        return Piece(target, made_from, original.content, given, here=True)

    def _link_to(self, image: ExportedImage, part: str, place: PurePosixPath) -> Path:
        return self._request.out / LINKS / part / f"{place.with_suffix('')}{PurePosixPath(image.path).suffix}"


def label_place(path: str, root: str, *, folded: bool = False) -> PurePosixPath:
    """The path of an image's label below `labels/train`."""
    place = mask_path("", path, root, folded=folded, template="{stem}.txt")
    folders = [f"{folder}_" if _LIKE_IMAGES.match(folder) else folder for folder in place.parts[:-1]]
    return PurePosixPath(*folders, place.name)


def places(request: ExportRequest) -> Places:
    return Places(partial(label_place, root=request.view.source.root), once=True)


def is_ours(file: BinaryIO) -> bool:
    """Whether the file is a data.yaml of ours. Labels have no place for a mark; `Ledger` knows them."""
    return file.read(len(START)) == START


FORMAT = Format(
    export_yolo,
    is_ours,
    ".txt",
    stem="yolo-seg",
    folder=True,
    takes={"split": "a part for training and one for validation"},
    needs=("numpy", "pycocotools", "cv2"),
    place=places,
)
