"""The COCO file loads in pycocotools and holds the very masks."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from db.exported import ExportedImage, ExportedInstance, ExportedResult
from producer.exports.coco import export_coco
from producer.exports.common import Request, Summary
from tests.producer.exports.conftest import FAINT, LARGE, SMALL, MakeRequest
from tests.producer.exports.finished import Finished

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: Request) -> tuple[Summary, dict[str, Any]]:
    summary = export_coco(request, run.images(request), lambda count: None)
    return summary, json.loads(request.out.read_text(encoding="utf-8"))


def test_pycocotools_decodes_the_masks_that_were_found(
    run: Finished, request_for: MakeRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    request = request_for("c.json", min_score=0.3)
    export(run, request)
    coco = COCO(str(request.out))
    [image] = [image for image in coco.imgs.values() if image["file_name"] == "a.jpg"]
    [person] = coco.getCatIds(catNms=["person"])
    found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]], catIds=[person]))
    assert [one["score"] for one in found] == [0.9, 0.6, 0.35]
    for one, mask in zip(found, (SMALL, LARGE, FAINT), strict=True):
        assert np.array_equal(coco.annToMask(one), mask)
        ys, xs = np.nonzero(mask)
        assert one["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert one["area"] == mask.sum()


def test_done_images_are_listed_once_with_unique_ids(run: Finished, request_for: MakeRequest, tmp_path: Path) -> None:
    summary, coco = export(run, request_for("c.json"))
    outside = str(tmp_path / "outside" / "c.png")
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg", "sub/b.jpg", outside]
    assert all((image["width"], image["height"]) == (64, 48) for image in coco["images"])
    assert [one["name"] for one in coco["categories"]] == ["person", "Red hat"]
    for part in ("images", "categories", "annotations"):
        ids = [one["id"] for one in coco[part]]
        assert len(set(ids)) == len(ids)
    assert summary == Summary(images=3, instances=3, files=1, path=tmp_path / "out" / "c.json")


def test_annotations_are_compressed_rle_as_text(run: Finished, request_for: MakeRequest) -> None:
    _, coco = export(run, request_for("c.json"))
    images = {image["id"] for image in coco["images"]}
    for one in coco["annotations"]:
        assert one["segmentation"]["size"] == [48, 64]
        assert isinstance(one["segmentation"]["counts"], str)
        assert one["iscrowd"] == 0
        assert one["image_id"] in images


def test_the_file_says_what_made_it(run: Finished, request_for: MakeRequest) -> None:
    _, coco = export(run, request_for("c.json", min_score=0.4))
    expected = {"run": "list", "model": "tiny", "threshold": 0.5, "mask_threshold": 0.5, "min_score": 0.4}
    assert expected.items() <= coco["info"].items()
    assert {"revision", "weights_sha256", "dtype"} <= coco["info"].keys()


def test_nothing_found_is_still_a_whole_file(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("c.json")
    assert export_coco(request, [], lambda count: None).images == 0
    coco = json.loads(request.out.read_text())
    assert (coco["images"], coco["annotations"]) == ([], [])


def test_the_same_export_gives_the_same_bytes_and_leaves_only_its_file(run: Finished, request_for: MakeRequest) -> None:
    request, seen = request_for("c.json"), list[int]()
    export_coco(request, run.images(request), seen.append)
    first = request.out.read_bytes()
    export_coco(request, run.images(request), seen.append)
    assert request.out.read_bytes() == first
    assert seen == [1, 2, 3, 4, 5, 6, 7] * 2
    assert list(request.out.parent.iterdir()) == [request.out]


def test_memory_does_not_grow_with_the_run(run: Finished, request_for: MakeRequest) -> None:
    instance = ExportedInstance(0.9, (0.0, 0.0, 5.0, 5.0), 25, b"0" * 500)
    results = (ExportedResult(1, 0.9, False, (instance,)),)

    def images() -> Iterator[ExportedImage]:
        for row in range(1, 5001):
            yield ExportedImage(row, row, f"{row}.jpg", None, "done", None, None, 9, 9, results)

    request = request_for("c.json")
    tracemalloc.start()
    try:
        assert export_coco(request, images(), lambda count: None).instances == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert request.out.stat().st_size > 3_000_000
    assert peak < 2_000_000
