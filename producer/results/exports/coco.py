"""Exports a run as one COCO JSON, written as a stream. Knows no SQL and no pixels: the database holds RLE counts.

The format: https://cocodataset.org/#format-data and, for `score`, https://cocodataset.org/#format-results.
"""

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from db.states import ImageState
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows, counting
from producer.results.exports.annotations import annotations, has_pixels
from producer.results.exports.coco_base import MERGED, CocoBase, merge_base, new_base
from producer.results.formats import Format
from workers.errors import UsageError

# No other program writes a line break at this place. So a file of ours that another program saved again is not ours.
START, MERGED_START = b'{\n"info": ', f'{{\n"{MERGED}": '.encode()
INFO_KEYS = {"run", "model", "weights_sha256", "min_score"}
HALVES = "backslashreplace"  # half characters, which somebody's file may have, are written as JSON's \\ud800 again
INFO_BYTES = 1 << 20  # so many bytes are searched for the end of `info`


def export_coco(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write done images, also empty ones, and their instances.

    Duplicates are listed once, by their first row. The id of an image is its row number, and the id of a category is
    that of the class: both are the same in every database. `bbox` is the tight box of the mask;
    `predicted_box` is the box of the model's box head, which may reach beyond the image. Masks are RLE with `iscrowd`
    0, and `score` is the one of COCO results. `capped` of an image lists the categories with a capped result. Instances
    whose mask has no pixel are left out and counted. Memory does not grow with the run: annotations are kept in a
    temporary file until all images are written. With `merge` all of an existing file comes first, see `merge_base`.
    Raises `UsageError` when the file cannot be written.
    """
    merge, most = request.own.get("merge"), request.own.get("shard_images")
    if most and (merge or request.files.single):
        raise UsageError("--shard-images: several files go with neither --merge nor standard output")
    done = (image for image in counting(images, progress) if image.state == ImageState.DONE)
    if most:
        return _write_shards(request, done, most)
    return _write(request, request.out, done, merge_base(request, Path(merge)) if merge else new_base(request))


def _write_shards(request: ExportRequest, done: Iterator[ExportedImage], most: int) -> Summary:
    """Write files of `most` images into a folder: `coco-000000.json` and so on. Removes those of a longer export."""
    request.files.make_folder(request.out)
    base, parts = new_base(request), list[Summary]()
    for number in itertools.count():
        path = request.out / f"coco-{number:06}.json"
        first = next(done, None)
        if first is None and parts:
            if not request.files.remove(path, is_ours):
                break
            continue
        part = itertools.islice(itertools.chain([] if first is None else [first], done), most)
        parts.append(_write(request, path, part, base))
    totals = (sum(values) for values in zip(*((one.images, one.instances, one.left_out) for one in parts), strict=True))
    images, instances, left_out = totals
    return Summary(images, instances, len(parts), request.out, left_out)


def _write(request: ExportRequest, path: Path, done: Iterable[ExportedImage], base: CocoBase) -> Summary:
    """Write one file with these images; ids of annotations go on in `base`."""
    instances = left_out = listed = 0
    with (
        request.files.replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors=HALVES) as file,
        _nameless_file(temporary.parent) as waiting,
    ):
        file.write("{\n" + "".join(_member(key, value) for key, value in base.members.items()) + '"images": [')
        images, found = _Array(file, base.images), _Array(waiting, base.annotations)
        for image in done:
            place = base.place(image)
            if place is None:
                continue
            listed += 1
            image_id, is_new = place
            if is_new:
                images.append(_image(image, image_id, base.categories))
            for result, annotation in annotations(request, image):
                if result.class_id not in base.categories:
                    continue
                if not has_pixels(annotation):
                    left_out += 1
                    continue
                ids = {
                    "id": base.next_annotation,
                    "image_id": image_id,
                    "category_id": base.categories[result.class_id],
                }
                found.append(ids | annotation | {"iscrowd": 0})
                base.next_annotation, instances = base.next_annotation + 1, instances + 1
        file.write('\n],\n"annotations": [')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file, 1 << 16)
        file.write("\n]\n}\n")
    told = (f"{base.other_sizes} left out, as they have another size in --merge",) if base.other_sizes else ()
    return Summary(listed, instances, 1, request.out, left_out, told=told)


class _Array:
    """Writes the elements of an array, each on a line of its own."""

    def __init__(self, file: TextIO, first: Iterable[Any]) -> None:
        self._file, self._before = file, "\n"
        for value in first:
            self.append(value)

    def append(self, value: Any) -> None:
        self._file.write(self._before + _json(value))
        self._before = ",\n"


def _nameless_file(folder: Path) -> TextIO:
    """A temporary file without a name in `folder`, which is on the target's disk, as /tmp may be small."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors=HALVES, dir=folder)


def _member(key: str, value: Any) -> str:
    return f"{_json(key)}: {_json(value)},\n"


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make an encoder each time


def _image(image: ExportedImage, id: int, category_ids: dict[int, int]) -> dict[str, Any]:
    facts = {
        "id": id,
        "file_name": image.path,
        "width": image.width,
        "height": image.height,
        "capped": [
            category_ids[result.class_id]
            for result in image.results
            if result.capped and result.class_id in category_ids
        ],
    }
    return facts | ({"gone": True} if image.gone else {})


def is_ours(file: BinaryIO) -> bool:
    """Whether the file begins like ours, with an `info` that has our keys, or with a list of them if it was merged."""
    head = file.read(len(START) + INFO_BYTES)
    start = next((start for start in (START, MERGED_START) if head.startswith(start)), None)
    if start is None:
        return False
    try:
        facts = json.loads(head[len(start) :].partition(b"\n")[0].removesuffix(b","))
    except ValueError:
        return False
    last = facts[-1] if isinstance(facts, list) and facts else facts
    return isinstance(last, dict) and last.keys() >= INFO_KEYS


FORMAT = Format(
    export_coco,
    is_ours,
    ".json",
    stem="coco",
    takes={"merge": "categories to add to a file", "shard_images": "several files"},
)
