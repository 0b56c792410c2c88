"""The run as one COCO JSON, written as a stream. Knows no SQL and no pixels: the RLE counts are stored ready."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from db.exported import ExportedImage, ExportedInstance
from db.models import ImageState
from db.views import RunView
from producer.exports.common import Progress, Request, Summary, counted, replacing, wanted


def export_coco(request: Request, images: Iterable[ExportedImage], progress: Progress) -> Summary:
    """Write done images, also those in which nothing was found, and their instances of at least `min_score`.

    Duplicates are listed once, by their first row. Categories are the prompts, ids are those of the database, masks
    are RLE with `iscrowd` 0, and `score` is kept as in COCO results. Memory does not grow with the run: annotations
    wait in a temporary file until the list of images is over. Raises `UsageError` when the file cannot be written.
    """
    listed = instances = 0
    with (
        replacing(request.out) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        _nameless_file(temporary.parent) as annotations,
    ):
        file.write("{\n" + _member("info", _info(request)) + _member("licenses", []))
        file.write(_member("categories", _categories(request.view)) + '"images": [')
        for image in counted(images, progress):
            if image.state != ImageState.DONE:
                continue
            _append(file, _image(image), first=listed == 0)
            listed += 1
            for result in image.results:
                for instance in wanted(request, result):
                    annotation = {"id": instances + 1, "image_id": image.id, "category_id": result.prompt_id}
                    _append(annotations, annotation | _mask(image, instance), first=instances == 0)
                    instances += 1
        file.write('\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file, 1 << 16)
        file.write("\n]\n}\n")
    return Summary(listed, instances, 1, request.out)


def _nameless_file(folder: Path) -> TextIO:
    """A file on the target's disk that goes away by itself: /tmp may be small."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)


def _member(key: str, value: Any) -> str:
    return f'"{key}": {_json(value)},\n'


def _append(file: TextIO, value: Any, *, first: bool) -> None:
    """One element of an array, on a line of its own."""
    file.write(("\n" if first else ",\n") + _json(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)


def _info(request: Request) -> dict[str, Any]:
    """Where the masks come from. No date, so that the same export gives the same bytes."""
    view = request.view
    return {
        "description": f"run {view.name}, segmented by text prompts",
        "run": view.name,
        "image_root": view.root,
        "model": view.model,
        "revision": view.revision,
        "weights_sha256": view.weights_sha256,
        "dtype": view.dtype,
        "threshold": view.threshold,
        "mask_threshold": view.mask_threshold,
        "score_floor": view.score_floor,
        "min_score": request.min_score,
        "mask_rule": view.mask_rule,
        "orientation": view.orientation,
    }


def _categories(view: RunView) -> list[dict[str, Any]]:
    return [{"id": id, "name": text, "supercategory": "prompt"} for id, text in view.prompts.items()]


def _image(image: ExportedImage) -> dict[str, Any]:
    return {"id": image.id, "file_name": image.path, "width": image.width, "height": image.height}


def _mask(image: ExportedImage, instance: ExportedInstance) -> dict[str, Any]:
    """Box as x, y, width, height in pixels to a thousandth; scores to a millionth, as finely as float32 tells them."""
    x1, y1, x2, y2 = instance.box
    return {
        "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": instance.area,
        "segmentation": {"size": [image.height, image.width], "counts": instance.rle.decode("ascii")},
        "iscrowd": 0,
        "score": round(instance.score, 6),
    }
