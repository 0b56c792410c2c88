"""The COCO file loads in pycocotools and holds the very masks."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from db.values import ClassResult, FoundInstance
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary
from producer.results.exports.coco import export_coco
from tests.memory import traced
from tests.producer.results.conftest import FAINT, LARGE, SMALL, MakeRequest
from tests.producer.results.finished import Finished, Mask

Box = tuple[float, float, float, float]

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: ExportRequest) -> tuple[Summary, dict[str, Any]]:
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
    assert [(one["name"], one["slug"]) for one in coco["categories"]] == [("person", "person"), ("Red hat", "red_hat")]
    for part in ("images", "categories", "annotations"):
        ids = [one["id"] for one in coco[part]]
        assert len(set(ids)) == len(ids)
    assert summary == Summary(images=3, instances=3, files=1, path=tmp_path / "out" / "c.json")


def encoded(mask: Mask, box: Box, score: float = 0.9) -> FoundInstance:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return FoundInstance(score, box, int(mask.sum()), rle["counts"])


def done(row: int, *found: FoundInstance, class_id: int = 1, id: int = 7000) -> ExportedImage:
    """A done image of 64 x 48 pixels with instances of one prompt."""
    results = (ClassResult(class_id, 0.9, False, found),)
    return ExportedImage(id, row, f"{row}.jpg", None, "done", None, None, 64, 48, results)


def test_the_box_is_the_masks_own_and_the_predicted_one_has_a_key_of_its_own(request_for: MakeRequest) -> None:
    """Importers cut masks off at `bbox`, as FiftyOne does: not a pixel may be lost by that."""
    request = request_for("c.json")
    head = (22.4, -2.96, 70.25, 39.0)  # unclipped, and smaller than the mask elsewhere
    export_coco(request, [done(1, encoded(LARGE, head))], lambda count: None)
    coco = COCO(str(request.out))
    [one] = coco.anns.values()

    assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()
    x, y, width, height = one["bbox"]
    mask = coco.annToMask(one)
    assert mask[round(y) : round(y + height), round(x) : round(x + width)].sum() == mask.sum() == LARGE.sum()
    assert one["predicted_box"] == [22.4, -2.96, 47.85, 41.96]


def test_an_instance_without_a_pixel_is_left_out_and_counted(request_for: MakeRequest) -> None:
    request = request_for("c.json")
    nothing = encoded(np.zeros((48, 64), np.uint8), (1.0, 1.0, 5.0, 5.0))
    images = [done(1, encoded(SMALL, (0, 0, 9, 9)), nothing), done(2, nothing)]
    summary = export_coco(request, images, lambda count: None)
    coco = json.loads(request.out.read_text())

    assert (summary.images, summary.instances, summary.left_out) == (2, 1, 2)
    assert [(one["id"], one["image_id"]) for one in coco["annotations"]] == [(1, 1)]
    assert len(coco["images"]) == 2


def test_ids_are_row_numbers_and_places_whatever_the_database_calls_them(request_for: MakeRequest) -> None:
    made = request_for("c.json")
    prompts, classes = {41: "person", 57: "Red hat"}, {41: 1, 57: 2}
    view = replace(made.view, prompts=prompts, every_image=(41, 57), class_of=classes)
    request = replace(made, view=view)
    box = (0.0, 0.0, 9.0, 9.0)
    images = [done(3, encoded(SMALL, box), class_id=2), done(9, encoded(LARGE, box), class_id=1)]
    export_coco(request, images, lambda count: None)
    coco = json.loads(request.out.read_text())

    assert [(one["id"], one["name"]) for one in coco["categories"]] == [(1, "person"), (2, "Red hat")]
    assert [image["id"] for image in coco["images"]] == [3, 9]
    assert [(one["image_id"], one["category_id"]) for one in coco["annotations"]] == [(3, 2), (9, 1)]


def test_an_image_names_the_categories_of_which_there_may_be_more(request_for: MakeRequest) -> None:
    request = request_for("c.json")
    person, hat = request.view.classes
    results = (ClassResult(person, 0.9, False, ()), ClassResult(hat, 0.9, True, ()))
    export_coco(request, [replace(done(1), results=results), done(2)], lambda count: None)

    assert [image["capped"] for image in json.loads(request.out.read_text())["images"]] == [[2], []]


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
    noise = encoded(np.random.default_rng(5).integers(0, 2, (48, 64), np.uint8), (0.0, 0.0, 5.0, 5.0))

    def images() -> Iterator[ExportedImage]:
        for row in range(1, 5001):
            yield done(row, noise)

    request = request_for("c.json")
    with traced() as memory:
        assert export_coco(request, images(), lambda count: None).instances == 5000
    assert request.out.stat().st_size > 3_000_000
    assert memory.peak < 2_000_000
