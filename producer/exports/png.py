"""The run as a folder of PNG masks that mirrors the input tree. Knows pixels, but no SQL and no Celery."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, PngImagePlugin
from pycocotools import mask as coco_mask

from db.exported import ExportedImage, ExportedInstance
from db.models import ImageState
from producer.exports.common import (
    Progress,
    Request,
    Summary,
    counted,
    replacing,
    wanted,
    writing,
)
from producer.exports.names import mask_path, prompt_slugs
from producer.layout import MASK_HEAD_BYTES, MASK_MARK
from workers.errors import UsageError

SELECTIONS = ("union", "best", "largest")


def export_png(request: Request, images: Iterable[ExportedImage], progress: Progress) -> Summary:
    """Write a mask (0 and 255, 8 bits, at the image's size) for every result with an instance of at least `min_score`.

    A result without one has no file; a mask that an earlier export of the same run left in its place is removed.
    Other files are never deleted. Duplicates share the file of their first row. Raises `UsageError` when `out` is
    not a folder or cannot be written.
    """
    if request.select not in SELECTIONS:
        raise UsageError(f"--select {request.select}: choose one of {', '.join(SELECTIONS)}")
    _make_folder(request.out)
    view = request.view
    slugs = prompt_slugs(view.prompts.values())
    done = instances = files = 0
    for image in counted(images, progress):
        if image.state != ImageState.DONE:
            continue
        done += 1
        for result in image.results:
            target = request.out / mask_path(slugs[view.prompts[result.prompt_id]], image.path, view.root)
            found = wanted(request, result)
            instances += len(found)
            if found:
                _write(target, _decode(image, found, request.select), view.name)
                files += 1
            else:
                _remove_own(target, view.name)
    return Summary(done, instances, files, request.out)


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: masks need a folder")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def _decode(image: ExportedImage, found: Sequence[ExportedInstance], select: str) -> Image.Image:
    """The selected mask, height x width, 0 or 255. A union is made of the RLEs, so that only one mask is decoded."""
    rles = [{"size": [image.height, image.width], "counts": instance.rle} for instance in found]
    if select == "union":
        rle = coco_mask.merge(rles)
    elif select == "best":
        rle = rles[0]
    else:
        rle = rles[max(range(len(found)), key=lambda index: found[index].area)]
    return Image.fromarray(np.ascontiguousarray(coco_mask.decode(rle)) * np.uint8(255))


def _write(target: Path, mask: Image.Image, run: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", _mark(run))
    with replacing(target) as temporary:
        mask.save(temporary, format="PNG", pnginfo=info)


def _remove_own(target: Path, run: str) -> None:
    """Remove a mask that an export of this run wrote. Looks only at its first bytes, where the mark stands."""
    if not target.is_file():
        return
    with writing(target):
        with target.open("rb") as file:
            head = file.read(MASK_HEAD_BYTES)
        if struct.pack(">I4s", len(_mark(run)), b"tEXt") + _mark(run) in head:
            target.unlink()


def _mark(run: str) -> bytes:
    """The text chunk in every mask that names the run it was exported from."""
    return MASK_MARK + quote(run).encode()
