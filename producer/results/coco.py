"""Exports a run as one COCO JSON, written as a stream. Knows no SQL and no pixels: the database holds RLE counts.

The format: https://cocodataset.org/#format-data and, for `score`, https://cocodataset.org/#format-results.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from db.models import ImageState
from db.values import FoundInstance
from db.views.results import ExportedImage
from db.views.status import RunView
from producer.results.boxes import NO_BOX, Box, tight_boxes
from producer.results.common import ExportRequest, Summary, TellRows, counting, wanted
from producer.results.formats import Format
from producer.slugs import prompt_slugs

# No other program writes a line break at this place. So a file of ours that another program saved again is not ours.
START = b'{\n"info": '
INFO_KEYS = {"run", "model", "weights_sha256", "min_score"}
INFO_BYTES = 1 << 20  # so many bytes are searched for the end of `info`


def export_coco(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write done images, also empty ones, and their instances with at least `min_score`.

    Duplicates are listed once, by their first row. The id of an image is its row number, and the id of a category is
    its place among the run's prompts, from 1: both are the same in every database. `bbox` is the tight box of the mask;
    `predicted_box` is the box of the model's box head, which may reach beyond the image. Masks are RLE with `iscrowd`
    0, and `score` is the one of COCO results. `capped` of an image lists the categories with a capped result. Instances
    whose mask has no pixel are left out and counted. Memory does not grow with the run: annotations are kept in a
    temporary file until all images are written. Raises `UsageError` when the file cannot be written.
    """
    listed = instances = left_out = 0
    category_ids = {prompt_id: place for place, prompt_id in enumerate(request.view.prompts, start=1)}
    with (
        request.files.replacing(request.out) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        _nameless_file(temporary.parent) as annotations,
    ):
        file.write("{\n" + _member("info", _info(request)) + _member("licenses", []))
        file.write(_member("categories", _categories(request.view, category_ids)) + '"images": [')
        for image in counting(images, progress):
            if image.state != ImageState.DONE:
                continue
            _append(file, _image(image, category_ids), first=listed == 0)
            listed += 1
            for annotation in _annotations(request, image, category_ids):
                if annotation["bbox"] == NO_BOX:
                    left_out += 1
                    continue
                _append(annotations, {"id": instances + 1} | annotation, first=instances == 0)
                instances += 1
        file.write('\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file, 1 << 16)
        file.write("\n]\n}\n")
    return Summary(listed, instances, 1, request.out, left_out)


def _nameless_file(folder: Path) -> TextIO:
    """A temporary file without a name in `folder`, which is on the target's disk, as /tmp may be small."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)


def _member(key: str, value: Any) -> str:
    return f'"{key}": {_json(value)},\n'


def _append(file: TextIO, value: Any, *, first: bool) -> None:
    """Write one element of an array on a line of its own."""
    file.write(("\n" if first else ",\n") + _json(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)


def _info(request: ExportRequest) -> dict[str, Any]:
    """How the masks were made. It holds no date, so that the same export gives the same bytes."""
    view = request.view
    return {
        "description": f"run {view.name}, segmented by text prompts",
        "run": view.name,
        "image_root": view.source.root,
        **asdict(view.frozen),
        "revision": view.revision,
        "weights_sha256": view.weights_sha256,
        "dtype": view.dtype,
        "versions": view.versions,
        "min_score": request.min_score,
        "partial": request.so_far,
    }


def _categories(view: RunView, ids: dict[int, int]) -> list[dict[str, Any]]:
    """The prompts as categories; `slug` is the name of the prompt in the files and columns of other formats."""
    slugs = prompt_slugs(view.prompts.values())
    return [
        {"id": ids[id], "name": text, "supercategory": "prompt", "slug": slugs[text]}
        for id, text in view.prompts.items()
    ]


def _image(image: ExportedImage, category_ids: dict[int, int]) -> dict[str, Any]:
    facts = {
        "id": image.row,
        "file_name": image.path,
        "width": image.width,
        "height": image.height,
        "capped": [category_ids[result.prompt_id] for result in image.results if result.capped],
    }
    return facts | ({"gone": True} if image.gone else {})


def _annotations(
    request: ExportRequest, image: ExportedImage, category_ids: dict[int, int]
) -> Iterator[dict[str, Any]]:
    """The annotations of an image, still without ids. `category_ids`: prompt id -> category id."""
    found = [
        (category_ids[result.prompt_id], instance) for result in image.results for instance in wanted(request, result)
    ]
    boxes = tight_boxes([instance.rle for _, instance in found], image.height or 0, image.width or 0)
    for (category_id, instance), box in zip(found, boxes, strict=True):
        yield {"image_id": image.row, "category_id": category_id} | _mask(image, instance, box)


def _mask(image: ExportedImage, instance: FoundInstance, box: Box) -> dict[str, Any]:
    """The fields of an annotation. Boxes are x, y, width, height in pixels.

    The predicted box is rounded to a thousandth of a pixel, and the score to a millionth, which float32 can still tell
    apart.
    """
    x1, y1, x2, y2 = instance.box
    return {
        "bbox": box,
        "area": instance.area,
        "segmentation": {"size": [image.height, image.width], "counts": instance.rle.decode("ascii")},
        "iscrowd": 0,
        "score": round(instance.score, 6),
        "predicted_box": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
    }


def is_ours(file: BinaryIO) -> bool:
    """Whether the file begins like ours, with an `info` that has our keys."""
    head = file.read(len(START) + INFO_BYTES)
    if not head.startswith(START):
        return False
    info = head[len(START) :].partition(b"\n")[0].removesuffix(b",")
    try:
        facts = json.loads(info)
    except ValueError:
        return False
    return isinstance(facts, dict) and facts.keys() >= INFO_KEYS


FORMAT = Format(export_coco, is_ours, ".json")
