"""Exports a run as shards of WebDataset: tar files with images and what was found. Knows no SQL and no pixels.

The format: https://github.com/webdataset/webdataset#the-webdataset-format. A reader of Hugging Face refuses shards that
mix kinds of images, so each kind has shards of its own: `jpg-000000.tar`, `png-000000.tar`.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from db.states import ImageState
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows, counting
from producer.results.exports import original
from producer.results.exports.annotations import annotations
from producer.results.exports.export_folder import open_folder, record
from producer.results.formats import Format

SHARD_IMAGES = 1000  # images of a shard, if the user names no other number
MARK = "sam3-queue: shard of results"  # in the header of each of our tar files
HEAD_BYTES = 2048  # the mark ends within so many bytes
OTHER_NAMES = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif"}  # suffixes that mean the same
BLANKS = str.maketrans("/.", "__")


def export_webdataset(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write each done image with a JSON beside it: its path, size, classes and annotations as COCO has them.

    The image is the file as it is: its EXIF orientation is not applied, as it is to masks. The key of a sample is the
    number of its row. An image that cannot be read is left out and counted. Raises `UsageError` if the folder cannot be
    written or is not ours.
    """
    folder, _ = open_folder(request, "webdataset")
    listed = instances = missing = 0
    record(request, folder)
    with ExitStack() as opened:
        shards: dict[str, _Shards] = {}
        for image in counting(images, progress):
            if image.state != ImageState.DONE:
                continue
            data = original.content(*original.given(request, image))
            if data is None:
                missing += 1
                continue
            kind = _kind(image.path)
            if kind not in shards:
                shards[kind] = opened.enter_context(_Shards(request, kind))
            facts = _facts(request, image)
            shards[kind].add(f"{image.row:09}", {kind: data, "json": json.dumps(facts, ensure_ascii=False).encode()})
            listed, instances = listed + 1, instances + len(facts["annotations"])  # type: ignore[arg-type]
        for first in request.files.matching("*-000000.tar"):  # of a kind that only an earlier export had
            kind = first.name.removesuffix("-000000.tar")
            if kind not in shards:
                opened.enter_context(_Shards(request, kind))
    record(request, folder, complete=True)
    told = (f"{missing} left out, as their images cannot be read as they were",) if missing else ()
    return Summary(listed, instances, sum(one.number for one in shards.values()), request.out, told=told)


class _Shards:
    """The shards of one kind of image, one after the other. At the end removes those of an earlier, longer export."""

    def __init__(self, request: ExportRequest, kind: str) -> None:
        self._request, self._kind = request, kind
        self._most = int(request.own.get("shard_images", SHARD_IMAGES))
        self._open = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._samples = 0
        self.number = 0  # of shards so far

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        self._open.__exit__(kind, error, None)  # a shard that is not whole is dropped
        if kind is None:
            for number in itertools.count(self.number):
                if not self._request.files.remove(self._path(number), is_ours):
                    return

    def add(self, key: str, files: dict[str, bytes]) -> None:
        """Write one sample: `files` are contents by suffix."""
        if self._tar is None or self._samples == self._most:
            self._open.close()
            path = self._open.enter_context(self._request.files.replacing(self._path(self.number)))
            self._tar = tarfile.TarFile(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": MARK})
            self._open.enter_context(self._tar)
            self.number, self._samples = self.number + 1, 0
        self._samples += 1
        for suffix, content in files.items():
            entry = tarfile.TarInfo(f"{key}.{suffix}")
            entry.size = len(content)
            self._tar.addfile(entry, io.BytesIO(content))

    def _path(self, number: int) -> Path:
        return self._request.out / f"{self._kind}-{number:06}.tar"


def _kind(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower()[1:].translate(BLANKS)
    return OTHER_NAMES.get(suffix, suffix) or "img"


def _facts(request: ExportRequest, image: ExportedImage) -> dict[str, object]:
    classes = request.view.classes
    return {
        "sam3_run": request.view.name,
        "path": image.path,
        "status": image.status,
        "width": image.width,
        "height": image.height,
        "annotations": [
            {"class": classes[result.class_id].name} | annotation for result, annotation in annotations(request, image)
        ],
    }


def is_ours(file: BinaryIO) -> bool:
    """Whether the file is a tar with our mark."""
    return f"comment={MARK}".encode() in file.read(HEAD_BYTES)


FORMAT = Format(
    export_webdataset,
    is_ours,
    ".tar",
    stem="webdataset",
    folder=True,
    takes={"shard_images": "shards"},
)
