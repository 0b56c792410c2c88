"""The exports of one run, each loaded by the tool that it is for, with figures: `make test-tools` prints them.

The tools are in an environment of their own, whose Python `TOOLS_PYTHON` names: they take 1.5 GB, and their packages
differ from ours. Without it these tests are skipped.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from workers.tiny.demo import write_demo

PYTHON = os.environ.get("TOOLS_PYTHON", "")
READERS = Path(__file__).with_name("readers.py")
IMAGES = 24
COUNTED = ("ultralytics", "supervision", "label_studio", "labelme", "fiftyone", "polars", "datasets")
TRAINERS = ("mmsegmentation", "mmsegmentation_by_stem", "simpletuner")
EXACT = ("label_studio", "fiftyone")  # masks, not polygons

pytestmark = [pytest.mark.long, pytest.mark.skipif(not PYTHON, reason="run by make test-tools")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes in `photos`, their run with the bundled model in `out`, and masks for COLMAP in `colmap`."""
    home = tmp_path_factory.mktemp("tools")
    write_demo(home / "photos", count=IMAGES, seed=3)
    also = [f"--also={name}" for name in ("jsonl", "coco", "yolo-seg", "label-studio", "labelme", "parquet")]
    prompts = ("--prompt", "red circle", "--prompt", "square")
    sam3(home, "run", "photos", *prompts, "--model", "tiny", "--gpus", "cpu", "-o", "out", *also)
    sam3(home, "export", "out", "--format", "png", "--empty", "black", "--name", "{name}.png", "-o", "colmap")
    for_trainers(home)
    return home


def for_trainers(home: Path) -> None:
    """The same scenes in `nested`, some of them in folders, two called alike but for their suffix, and their masks."""
    for number, path in enumerate(sorted((home / "photos").glob("scene-*"))):
        place = home / "nested" / ("", "a", "a/b")[number % 3] / ("twin" if number < 4 else path.stem)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(path.suffix).hardlink_to(path)
    prompts = ("--prompt", "red circle", "--prompt", "square")
    sam3(home, "run", "nested", *prompts, "--model", "tiny", "--gpus", "cpu", "-o", "trainers", "--also", "jsonl")
    export = ("export", "trainers", "--format", "png", "--empty", "black")
    sam3(home, *export, "--index", "prompt", "-o", "labels")
    sam3(home, *export, "--name", "{name}", "-o", "masks")
    label_maps = ("--format", "png", "--empty", "black", "--index", "prompt", "--name", "{stem}.png")
    sam3(home, "export", "out", *label_maps, "-o", "stems")


def sam3(home: Path, command: str, *given: str) -> None:
    subprocess.run([Path(sys.executable).with_name(f"sam3-{command}"), *given], cwd=home, check=True)


@cache
def read(tool: str, folder: Path) -> dict[str, Any]:
    told = subprocess.run([PYTHON, READERS, tool, folder], check=True, stdout=subprocess.PIPE, text=True)
    facts: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    print(f"\n{tool}: {facts}")
    return facts


@pytest.fixture
def found(folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the tool, whose name is the test's parameter, has found in the exports."""
    return read(request.param, folder)


@pytest.fixture
def instances(folder: Path) -> int:
    return len(json.loads((folder / "out" / "coco.json").read_text())["annotations"])


@pytest.mark.parametrize("found", COUNTED, indirect=True)
def test_a_tool_finds_all_images_and_all_instances(found: dict[str, Any], instances: int) -> None:
    assert (found["images"], found["instances"]) == (IMAGES, instances)
    if "mean_iou" in found:
        assert found["mean_iou"] >= 0.99
        assert found["least_iou"] >= 0.95


@pytest.mark.parametrize("found", EXACT, indirect=True)
def test_a_tool_that_takes_masks_has_each_pixel(found: dict[str, Any]) -> None:
    assert found["least_iou"] == 1
    assert found.get("valid") == found.get("predictions")


@pytest.mark.parametrize("found", TRAINERS, indirect=True)
def test_a_trainer_pairs_each_image_with_its_mask(found: dict[str, Any]) -> None:
    assert found == dict.fromkeys(("images", "paired", "sizes", "right"), IMAGES)


@pytest.mark.parametrize("found", ["pycolmap"], indirect=True)
def test_colmap_uses_the_mask_of_each_image(found: dict[str, Any]) -> None:
    assert found["images"] == IMAGES
    assert found["features"] > 0
    assert found["features_on_black"] == 0
