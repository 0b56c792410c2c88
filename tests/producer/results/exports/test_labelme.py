"""Files of LabelMe: polygons for parts, which its way of drawing turns back into our masks.

LabelMe itself needs Qt. Its `shape_to_mask` (labelme/utils/shape.py) draws polygons with Pillow, as this test does.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from db.intake import NewRow
from producer.results.choice import Choice
from producer.results.common import ExportRequest, Summary
from producer.results.exports.labelme import export_labelme
from producer.results.exports.pixels import polygons
from tests.producer.results.conftest import LARGE, SIZE, SMALL, MakeRequest
from tests.producer.results.finished import Done, Finished, Input, Mask, ellipse, finish
from workers.errors import UsageError
from workers.inference.shapes.masks import encode

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_labelme(request, run.images(request), lambda count: None)


def drawn(shapes: list[dict[str, list[list[float]]]], size: tuple[int, int]) -> Mask:
    """The union of shapes, as LabelMe draws them."""
    image = Image.new("L", size)
    for shape in shapes:
        ImageDraw.Draw(image).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
    return np.asarray(image)


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_file_names_its_image_and_has_a_polygon_for_each_part(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("labelme")
    assert export(run, request).files == 3
    content = json.loads((request.out / "a.json").read_text())
    assert (content["imageWidth"], content["imageHeight"], content["imageData"]) == (*SIZE, None)
    image = os.path.normpath(request.out / content["imagePath"])
    assert image == os.path.join(run.view.source.root, "a.jpg")
    assert [(shape["label"], shape["group_id"]) for shape in content["shapes"]] == [("person", 1), ("person", 2)]
    for shape, mask in zip(content["shapes"], (SMALL, LARGE), strict=True):
        assert overlap(drawn([shape], SIZE), mask) >= 0.98
    assert json.loads((request.out / "sub/b.json").read_text())["shapes"] == []


def test_parts_belong_together_and_holes_stay_holes(tmp_path: Path) -> None:
    size = (200, 100)
    mask = ellipse(size, (50, 50), (45, 40)) & (1 - ellipse(size, (50, 50), (15, 12)))
    mask |= ellipse(size, (150, 50), (30, 20))
    found = {"a.jpg": Done({"person": [(0.9, mask)]}, size)}
    run = finish(tmp_path, Input(tmp_path, [NewRow("a.jpg", {})]), found)
    export(run, ExportRequest(run.view, Choice(0.5), tmp_path / "labelme"))
    shapes = json.loads((tmp_path / "labelme/a.json").read_text())["shapes"]
    assert [shape["group_id"] for shape in shapes] == [1, 1]
    assert overlap(drawn(shapes, size), mask) >= 0.97


class Counted(list[int]):
    """A list that counts how often one of its numbers is read in a loop."""

    reads = 0

    def __iter__(self) -> Iterator[int]:
        for number in super().__iter__():
            self.reads += 1
            yield number


def test_holes_are_given_to_their_parts_without_a_look_at_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = (np.random.default_rng(1).random((60, 80)) < 0.25).astype(np.uint8)
    lines, numbers = polygons.outlines(60, 80, encode(mask))
    parents = Counted(numbers)
    monkeypatch.setattr(polygons, "outlines", lambda *given: (lines, parents))
    found = polygons.parts(60, 80, encode(mask))
    assert len(numbers) > len(found) == numbers.count(-1) > 100
    assert parents.reads <= 3 * len(numbers)


def test_what_a_person_has_saved_stays(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("labelme")
    export(run, request)
    assert export(run, request).kept == 3
    file = request.out / "a.json"
    content = json.loads(file.read_text())
    content["shapes"][0]["points"][0] = [1, 1]
    file.write_text(json.dumps(content, indent=2))
    with pytest.raises(UsageError, match=r"a\.json was not made by an export of ours"):
        export(run, request)
    assert json.loads(file.read_text()) == content
