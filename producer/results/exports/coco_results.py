"""Exports a run as COCO results, the array that pycocotools' `COCO.loadRes` takes. Knows no SQL and no pixels.

The format: https://cocodataset.org/#format-results.
"""

import json
from collections.abc import Iterable
from typing import Any, BinaryIO

from db.states import ImageState
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows, counting
from producer.results.exports.annotations import KEYS, annotations, has_pixels
from producer.results.formats import Format

START, END = b"[", b"\n]\n"
OURS = b'\n{"sam3_run": '  # start of each element; no other program writes it
ELEMENT = ("sam3_run", "image_id", "category_id", *KEYS)
ELEMENT_BYTES = 1 << 24  # so many bytes are searched for the end of the first element


def export_coco_results(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write one element for each instance, on a line of its own.

    Ids of images and categories are those of the format coco, so that the results can be loaded into its file.
    Instances whose mask has no pixel are left out and counted. Raises `UsageError` when the file cannot be written.
    """
    listed = instances = left_out = 0
    with request.files.replacing(request.out) as temporary, temporary.open("wb") as file:
        file.write(START)
        for image in counting(images, progress):
            listed += image.state == ImageState.DONE
            for result, annotation in annotations(request, image) if image.state == ImageState.DONE else ():
                if not has_pixels(annotation):
                    left_out += 1
                    continue
                ids = {
                    "sam3_run": request.view.name,
                    "image_id": image.row,
                    "category_id": result.class_id,
                }
                file.write((b"," if instances else b"") + b"\n" + _json(ids | annotation))
                instances += 1
        file.write(END)
    return Summary(listed, instances, 1, request.out, left_out)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # json.dumps would make one each time


def _json(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


def is_ours(file: BinaryIO) -> bool:
    """Whether the first element has our keys and no others, which would be a person's work.

    An empty array may be replaced as well, since it holds no data.
    """
    head = file.read(len(START + OURS))
    if head != START + OURS:
        return head == START + END
    try:
        first = json.loads(OURS + file.readline(ELEMENT_BYTES).rstrip(b",\n"))
    except ValueError:
        return False
    return tuple(first) == ELEMENT


FORMAT = Format(export_coco_results, is_ours, ".json", stem="coco-results", origin_beside=True)
