"""Exports a run as tasks of Label Studio with predictions that a person can correct. Knows no SQL and no pixels.

The format: https://labelstud.io/guide/predictions, and for masks https://labelstud.io/tags/brushlabels.
"""

import json
from collections.abc import Iterable
from typing import Any, BinaryIO
from urllib.parse import quote

from db.states import ImageState
from db.values import FoundInstance
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows, counting, found_in
from producer.results.formats import Format
from workers.places import location

START, END = b"[", b"\n]\n"
OURS = b'\n{"data": {"sam3_run": '  # start of each task; no other program writes it
LOCAL_FILES = "/data/local-files/?d="  # https://labelstud.io/guide/storage#Local-storage
FROM, TO = "label", "image"  # names of the tags <BrushLabels> and <Image> in the labelling configuration


def export_label_studio(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write a task for each done image, also an empty one, on a line of its own.

    An instance is one brush mask with its holes and parts. Instances whose mask has no pixel are left out and counted.
    Raises `UsageError` when the file cannot be written.
    """
    from producer.results.exports.pixels.brush import brush_rle  # needs the libraries that `FORMAT` names

    listed = instances = left_out = 0
    classes = request.view.classes
    with request.files.replacing(request.out) as temporary, temporary.open("wb") as file:
        file.write(START)
        for image in counting(images, progress):
            if image.state != ImageState.DONE:
                continue
            regions: list[dict[str, Any]] = []
            for result, instance in found_in(image):
                if not instance.area:
                    left_out += 1
                    continue
                rle = brush_rle(image.height or 0, image.width or 0, instance.rle)
                regions.append(
                    _region(image, f"{image.row}-{len(regions) + 1}", classes[result.class_id].name, instance, rle)
                )
            task = _task(request, image, regions)
            file.write((b"," if listed else b"") + b"\n" + _encoded(task).encode())
            listed, instances = listed + 1, instances + len(regions)
        file.write(END)
    return Summary(listed, instances, 1, request.out, left_out)


def _region(image: ExportedImage, id: str, label: str, instance: FoundInstance, rle: list[int]) -> dict[str, Any]:
    return {
        "id": id,
        "type": "brushlabels",
        "from_name": FROM,
        "to_name": TO,
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "score": round(instance.score, 6),
        "value": {"format": "rle", "rle": rle, "brushlabels": [label]},
    }


def _task(request: ExportRequest, image: ExportedImage, regions: list[dict[str, Any]]) -> dict[str, Any]:
    view = request.view
    place = location.place(view.source.root, image.path)
    plain = location.normal(image.path).removeprefix(f"{view.source.root.rstrip('/')}/").lstrip("/")
    if location.is_url(place) and "image_url" not in request.own:
        url = place  # Label Studio reads objects of a bucket that its cloud storage names
    else:
        url = request.own.get("image_url", LOCAL_FILES) + quote(plain.encode(errors="surrogateescape"))
    prediction = {
        "model_version": view.frozen.model,
        "score": max((region["score"] for region in regions), default=0.0),
        "result": regions,
    }
    return {"data": {"sam3_run": view.name, "sam3_row": image.row, TO: url}, "predictions": [prediction]}


_encoded = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder each time


def is_ours(file: BinaryIO) -> bool:
    """Whether the first task is one of ours. An empty array may be replaced as well, since it holds no data."""
    head = file.read(len(START + OURS))
    return head == START + OURS or head.startswith(START + END)


FORMAT = Format(
    export_label_studio,
    is_ours,
    ".json",
    stem="label-studio",
    origin_beside=True,
    takes={"image_url": "addresses of images"},
    needs=("numpy",),
)
