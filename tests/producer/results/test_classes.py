"""Every output names classes, with the ids and colours of a file. The wordings of a class are one result."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from db.classes import NamedClass, classes_as_text
from db.intake import NewRow
from db.session import reading
from producer.results.choice import Choice
from producer.results.common import ExportRequest, Summary
from producer.results.formats import format_named
from producer.results.preview import choose, told_found
from producer.results.tally import tallies
from tests.producer.results.conftest import FAINT, LARGE, SIZE, SMALL
from tests.producer.results.finished import Done, Ends, Finished, Input, finish

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LISTED = (NamedClass(7, "container", (10, 200, 30)), NamedClass(4, "hat"), NamedClass(9, "ship"))


@pytest.fixture
def wordings(tmp_path: Path, request: pytest.FixtureRequest) -> Finished:
    """Two wordings of the class container, a prompt of its own, and a row that names a class itself."""
    rows = [NewRow("a.jpg", {}), NewRow("b.jpg", {}), NewRow("c.jpg", {}, prompts=("lorry=vehicle", "hat"))]
    prompts = ("shipping container=container", "cargo box=container", "hat")
    ends: Ends = {
        "a.jpg": Done({"shipping container": [(0.8, LARGE)], "cargo box": [(0.9, LARGE), (0.6, SMALL)]}, SIZE),
        "b.jpg": Done({"hat": [(0.7, SMALL)]}, SIZE, capped=["cargo box"]),
        "c.jpg": Done({"lorry": [(0.75, FAINT)]}, SIZE),
    }
    classes = getattr(request, "param", None)
    return finish(tmp_path, Input(tmp_path / "in", rows, prompts, classes=classes), ends)


with_file = pytest.mark.parametrize("wordings", [classes_as_text(LISTED)], indirect=True)


def export(run: Finished, name: str, out: Path, choice: Choice | None = None, **own: object) -> Summary:
    request = ExportRequest(run.view, choice or Choice.of_run(run.view), out, own=own, flat=bool(own.get("flat")))
    return format_named(name).write(request, run.images(request), lambda done: None)


def test_a_class_has_one_column_and_one_mask_for_all_its_wordings(wordings: Finished, tmp_path: Path) -> None:
    export(wordings, "png", tmp_path / "masks")
    export(wordings, "csv", tmp_path / "r.csv")

    first, second, third = csv.DictReader((tmp_path / "r.csv").read_text().splitlines())
    assert "container_instances" in first
    assert not any("cargo" in column for column in first)
    assert (first["container_instances"], first["container_score"]) == ("3", "0.900000")
    assert (second["container_capped"], second["hat_instances"], third["prompt_instances"]) == ("true", "1", "1|0")
    assert sorted(str(mask.relative_to(tmp_path / "masks")) for mask in (tmp_path / "masks").rglob("*.png")) == [
        "container/a.jpg.png", "hat/b.jpg.png", "vehicle/c.jpg.png"
    ]  # fmt: skip


def test_classes_are_numbered_by_order(wordings: Finished, tmp_path: Path) -> None:
    export(wordings, "coco", tmp_path / "coco.json")

    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [(one["id"], one["name"]) for one in coco["categories"]] == [(1, "container"), (2, "hat"), (3, "vehicle")]
    assert coco["categories"][0]["prompts"] == ["shipping container", "cargo box"]
    assert "prompts" not in coco["categories"][1]
    assert [one["category_id"] for one in coco["annotations"]] == [1, 1, 1, 2, 3]


@with_file
def test_a_file_of_classes_gives_ids_and_colours_to_every_format(wordings: Finished, tmp_path: Path) -> None:
    export(wordings, "coco", tmp_path / "coco.json")
    export(wordings, "coco-results", tmp_path / "results.json")
    export(wordings, "yolo-seg", tmp_path / "yolo", split=1.0)
    export(wordings, "png", tmp_path / "maps", index="prompt")

    coco = json.loads((tmp_path / "coco.json").read_text())
    assert {one["name"]: one["id"] for one in coco["categories"]} == {
        "container": 7,
        "hat": 4,
        "ship": 9,
        "vehicle": 10,
    }
    assert {one["category_id"] for one in json.loads((tmp_path / "results.json").read_text())} == {7, 4, 10}
    assert coco["categories"][0]["color"] == [10, 200, 30]
    assert yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())["names"] == {
        0: "hat", 1: "container", 2: "ship", 3: "vehicle"
    }  # fmt: skip
    assert (tmp_path / "yolo" / "labels" / "train" / "b.txt").read_text().startswith("0 ")
    label_map = Image.open(tmp_path / "maps" / "a.jpg.png")
    assert set(np.unique(np.array(label_map))) == {0, 7}
    assert (label_map.getpalette() or [])[21:24] == [10, 200, 30]
    assert json.loads((tmp_path / "maps" / "legend.json").read_text())["7"] == "container"


def test_nested_tables_labels_and_the_preview_name_classes(wordings: Finished, tmp_path: Path) -> None:
    export(wordings, "jsonl", tmp_path / "r.jsonl")
    export(wordings, "jsonl", tmp_path / "flat.jsonl", flat=True)
    export(wordings, "label-studio", tmp_path / "tasks.json")
    export(wordings, "labelme", tmp_path / "labelme")

    first, *_ = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert [(one["class"], len(one["instances"])) for one in first["sam3_results"]] == [("container", 3), ("hat", 0)]
    flat = [json.loads(line)["sam3_class"] for line in (tmp_path / "flat.jsonl").read_text().splitlines()]
    assert flat == ["container", "container", "container", "hat", "vehicle"]
    regions = json.loads((tmp_path / "tasks.json").read_text())[0]["predictions"][0]["result"]
    assert {region["value"]["brushlabels"][0] for region in regions} == {"container"}
    shapes = json.loads((tmp_path / "labelme" / "c.json").read_text())["shapes"]
    assert {shape["label"] for shape in shapes} == {"vehicle"}
    with reading(wordings.sessions) as session:
        told = {tile.image.path: told_found(wordings.view, tile.image) for tile in choose(wordings.view, session)}
    assert told["a.jpg"] == "3 container · best 0.90"
    assert told["c.jpg"] == "1 vehicle · score 0.75"


def test_two_wordings_that_find_the_same_thing_are_one_with_nms(wordings: Finished, tmp_path: Path) -> None:
    """The class is what overlaps are judged in, so the better of the two stays."""
    choice = Choice.made(wordings.view, {}, nms=0.7)
    assert export(wordings, "coco", tmp_path / "coco.json", choice).instances == 4
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [one["score"] for one in coco["annotations"]] == [0.9, 0.6, 0.7, 0.75]
    assert (coco["info"]["nms"], coco["info"]["iou"], coco["info"]["nms_across"]) == (0.7, "mask", False)


def test_the_tally_of_a_choice_is_what_an_export_writes(wordings: Finished, tmp_path: Path) -> None:
    choices = (
        Choice(0.5),
        Choice.made(wordings.view, {"container": 0.7, "vehicle": 0.8}),
        Choice.made(wordings.view, {None: 0.3}, nms=0.5, contain=0.5),
        Choice.made(
            wordings.view, {}, min_area=int(SMALL.sum()) + 1, max_instances=1, iou="box", nms=0.5, nms_across=True
        ),
    )
    seen: list[int] = []
    for choice, counted in zip(choices, tallies(wordings.sessions, wordings.view, choices, seen.append), strict=True):
        export(wordings, "coco", tmp_path / "coco.json", choice)
        coco = json.loads((tmp_path / "coco.json").read_text())
        found = [one["category_id"] for one in coco["annotations"]]
        assert [one.instances for one in counted.classes] == [found.count(id) for id in wordings.view.classes]
        assert counted.empty == 3 - len({one["image_id"] for one in coco["annotations"]})
        assert (counted.choice, counted.images) == (choice, 3)
    assert seen == [1, 2, 3]  # each image was read once for all of them
