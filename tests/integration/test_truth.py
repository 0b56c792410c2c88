"""The real model code against the truth: drawn scenes through sam3-run with the bundled checkpoint."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.terminals import Terminal
from workers.tiny.__main__ import found_in
from workers.tiny.demo import Answers, Rle, compare, read_truth, write_demo
from workers.tiny.files import CHECKPOINT

PROMPTS = ("--prompt", "red circle", "--prompt", "square")

pytestmark = pytest.mark.long


@pytest.fixture
def here(terminal: Terminal) -> Terminal:
    """A terminal whose nodes load real weights."""
    del terminal.environment["SAM3_SEGMENTER"], terminal.environment["SAM3_STATE_DIR"]
    return terminal


def test_the_bundled_model_finds_what_was_drawn(here: Terminal) -> None:
    truth = write_demo(here.home / "scenes", seed=7)  # not the demo's scenes, nor any it was trained on

    here.run("sam3-run", "scenes", *PROMPTS, "--model", "tiny", "-o", "out", "--also", "coco-results")
    here.run("sam3-export", "out", "--format", "coco", "-o", "coco.json")

    assert read_truth(here.home / "scenes") == truth
    told = compare(truth, found_in(here.home / "coco.json"))
    assert told.drawn >= 50
    assert told.f1 >= 0.9
    assert told.mean_iou >= 0.9
    assert average_precision(truth, here.home / "coco.json", here.home / "out/coco-results.json") >= 0.9
    status = here.json("sam3-status", "out")
    assert status["images"]["empty"] > 0  # some scenes hold neither: finding nothing is a result
    assert status["images"]["failed"] == 0


def test_a_box_around_one_circle_finds_all_circles(here: Terminal) -> None:
    truth = write_demo(here.home / "scenes", count=40, seed=8)
    circles = {f"scenes/{name}": answers["circle"] for name, answers in truth.items() if answers["circle"]}
    boxes = ((name, json.dumps([around(drawn[0])])) for name, drawn in circles.items())
    with (here.home / "circles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "boxes"), *boxes])

    here.run("sam3-run", "circles.csv", "--box-column", "boxes", "--model", "tiny", "-o", "out")
    here.run("sam3-export", "out", "--format", "coco", "-o", "coco.json")

    found = found_in(here.home / "coco.json")
    assert len(found) == len(circles)
    told = compare({name: {"visual": drawn} for name, drawn in circles.items()}, found)
    assert told.drawn > len(circles)  # more circles than were shown
    assert told.f1 >= 0.8


def around(shape: Rle) -> list[float]:
    x, y, width, height = (float(value) for value in mask.toBbox(shape))
    return [x, y, x + width, y + height]


def average_precision(truth: Mapping[str, Answers], coco: Path, results: Path) -> float:
    """COCO's AP of masks: that of our file of results, with what was drawn as the truth for our file of images."""
    ours = json.loads(coco.read_text())
    ids = {category["name"]: category["id"] for category in ours["categories"]}
    drawn = [
        {"image_id": image["id"], "category_id": ids[prompt], "iscrowd": 0, "segmentation": shape}
        | {"area": float(mask.area(shape)), "bbox": [float(value) for value in mask.toBbox(shape)]}
        for image in ours["images"]
        for prompt in ids
        for shape in truth[image["file_name"]][prompt]
    ]
    known = COCO()
    known.dataset = ours | {"annotations": [one | {"id": id} for id, one in enumerate(drawn, start=1)]}
    known.createIndex()
    judge = COCOeval(known, known.loadRes(str(results)), "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(judge.stats[0])


def broken(folder: Path, damage: str) -> Path:
    """A copy of the bundled checkpoint with one thing wrong."""
    shutil.copytree(CHECKPOINT, folder)
    weights = folder / "model.safetensors"
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        weights.unlink()
    return folder


@pytest.mark.parametrize("damage", ["cut weights", "no weights"])
def test_a_broken_model_is_one_line_before_anything_is_claimed(here: Terminal, damage: str) -> None:
    write_demo(here.home / "scenes", count=2)
    broken(here.home / "weights", damage)

    said = here.run("sam3-run", "scenes", *PROMPTS, "--model", "weights", "-o", "out", code=3).stderr

    assert "Traceback" not in said
    assert f"run scenes cannot be served: model {here.home / 'weights'}" in said.splitlines()[-1]
    status = here.json("sam3-status", "out")
    assert (status["images"]["pending"], status["images"]["failed"], status["chunks"]["running"]) == (2, 0, 0)
