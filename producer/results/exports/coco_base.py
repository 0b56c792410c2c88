"""What a COCO file begins with: nothing, or the content of an existing file, of which nothing is changed.

Knows COCO's objects, but no SQL and no pixels.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from db.views.results import ExportedImage
from producer.results.common import ExportRequest
from producer.results.exports.provenance import categories, provenance
from workers.errors import UsageError
from workers.places import location

Entry = dict[str, Any]
LISTS = ("images", "categories", "annotations")
MERGED = "sam3_merged"  # first key of a merged file: how each part that we added was made


@dataclass
class CocoBase:
    """The start of a COCO file, and the ids of what is added to it."""

    members: dict[str, Any]  # that come before the images
    categories: dict[int, int]  # class -> category; without classes that the existing file has already
    images: Sequence[Entry] = ()
    annotations: Sequence[Entry] = ()
    next_image: int | None = None  # None: the id of an image is the number of its row
    next_annotation: int = 1
    other_sizes: int = 0
    _ids: dict[str, Entry] = field(default_factory=dict)  # normalised path -> image of the existing file

    def place(self, image: ExportedImage) -> tuple[int, bool] | None:
        """The id of an image and whether it has to be added; None if the existing file has it with another size."""
        there = self._ids.get(location.normal(image.path))
        if there is None and self.next_image is not None:
            self.next_image += 1
            return self.next_image - 1, True
        if there is None:
            return image.row, True
        if (there.get("width") or image.width, there.get("height") or image.height) != (image.width, image.height):
            self.other_sizes += 1
            return None
        return there["id"], False


def new_base(request: ExportRequest) -> CocoBase:
    """The start of a file of our own."""
    members = {"info": provenance(request), "licenses": [], "categories": categories(request)}
    return CocoBase(members, {id: id for id in request.view.classes})


def merge_base(request: ExportRequest, file: Path) -> CocoBase:
    """The start of a file that holds all of `file`, a COCO file, and new categories for our classes.

    A category that the file has already is somebody's work: nothing is added to it. All of the file is in
    memory. Raises `UsageError` if it is no COCO file, has all categories, or would be replaced.
    """
    content = _read(file)
    if os.path.exists(request.out) and os.path.samefile(request.out, file):
        raise UsageError(f"-o {request.out} is the file of --merge, which is never changed: name a new file")
    taken = [entry.get("name") for entry in content["categories"]]  # whatever somebody has written there
    first = _next(content["categories"])
    new = [id for id, one in request.view.classes.items() if one.name not in taken]
    if not new:
        raise UsageError(f"--merge {file} has a category for each class already, so there is nothing to add")
    added = {id: number for number, id in enumerate(new, start=first)}
    members = {
        MERGED: [*content.get(MERGED, []), provenance(request)],
        **{key: value for key, value in content.items() if key not in (*LISTS, MERGED)},
        "categories": [*content["categories"], *categories(request, added)],
    }
    by_path = {location.normal(str(entry.get("file_name", ""))): entry for entry in content["images"]}
    ids = _next(content["images"]), _next(content["annotations"])
    return CocoBase(members, added, content["images"], content["annotations"], *ids, _ids=by_path)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8-sig"), parse_constant=_refuse)
    except OSError as error:
        raise UsageError(f"--merge {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--merge {file} is no JSON: {error}") from None
    for name in LISTS:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and type(entry.get("id")) is int for entry in entries
        ):
            raise UsageError(
                f"--merge {file} is no COCO file: it needs a list {name} whose entries have a number as id"
            )
    assert isinstance(content, dict)
    if not isinstance(content.get(MERGED, []), list):
        raise UsageError(f"--merge {file}: its {MERGED} is no list, so no export of ours made it: rename that key")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"it has {constant}, which is no number of JSON")


def _next(entries: Sequence[Entry]) -> int:
    return max((entry["id"] for entry in entries), default=0) + 1
