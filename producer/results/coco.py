"""Exports a run as one COCO JSON, written as a stream. Knows no SQL and no pixels: the database holds RLE counts.

The format: https://cocodataset.org/#format-data and, for `score`, https://cocodataset.org/#format-results.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from db.states import ImageState
from db.views.results import ExportedImage
from db.views.status import RunView
from producer.results.annotations import annotations, categories_of, has_pixels
from producer.results.common import ExportRequest, Summary, TellRows, counting
from producer.results.formats import Format
from producer.results.provenance import provenance
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
    category_ids = categories_of(request.view)
    with (
        request.files.replacing(request.out) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        _nameless_file(temporary.parent) as waiting,
    ):
        file.write("{\n" + _member("info", provenance(request)) + _member("licenses", []))
        file.write(_member("categories", _categories(request.view, category_ids)) + '"images": [')
        for image in counting(images, progress):
            if image.state != ImageState.DONE:
                continue
            _append(file, _image(image, category_ids), first=listed == 0)
            listed += 1
            for result, annotation in annotations(request, image):
                if not has_pixels(annotation):
                    left_out += 1
                    continue
                ids = {"id": instances + 1, "image_id": image.row, "category_id": category_ids[result.prompt_id]}
                _append(waiting, ids | annotation | {"iscrowd": 0}, first=instances == 0)
                instances += 1
        file.write('\n],\n"annotations": [')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file, 1 << 16)
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


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make an encoder each time


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


FORMAT = Format(export_coco, is_ours, ".json", stem="coco")
