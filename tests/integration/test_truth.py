"""The real model code against the truth: drawn scenes through sam3-run with the bundled checkpoint."""

import shutil
from pathlib import Path

import pytest

from tests.terminals import Terminal
from workers.tiny.__main__ import found_in
from workers.tiny.demo import compare, read_truth, write_demo
from workers.tiny.files import CHECKPOINT

PROMPTS = ("--prompt", "red circle", "--prompt", "square")

pytestmark = pytest.mark.long


@pytest.fixture
def here(terminal: Terminal) -> Terminal:
    """A terminal whose nodes load real weights."""
    del terminal.environment["SAM3_SEGMENTER"], terminal.environment["SAM3_STATE_DIR"]
    return terminal


def test_the_bundled_model_finds_what_was_drawn(here: Terminal) -> None:
    truth = write_demo(here.home / "scenes", count=24, seed=7)  # not the demo's scenes, nor any it was trained on

    here.run("sam3-run", "scenes", *PROMPTS, "--model", "tiny", "-o", "out")
    here.run("sam3-export", "out", "--format", "coco", "-o", "coco.json")

    assert read_truth(here.home / "scenes") == truth
    told = compare(truth, found_in(here.home / "coco.json"))
    assert told.drawn >= 15
    assert told.f1 >= 0.8
    assert told.mean_iou >= 0.85
    status = here.json("sam3-status", "out")
    assert status["images"]["empty"] > 0  # some scenes hold neither: finding nothing is a result
    assert status["images"]["failed"] == 0


def broken(folder: Path, damage: str) -> Path:
    """A copy of the bundled checkpoint with one thing wrong."""
    shutil.copytree(CHECKPOINT, folder)
    weights = folder / "model.safetensors"
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "no weights":
        weights.unlink()
    else:
        (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.mark.parametrize("damage", ["cut weights", "no weights", "another model"])
def test_a_broken_model_is_one_line_before_anything_is_claimed(here: Terminal, damage: str) -> None:
    write_demo(here.home / "scenes", count=2)
    broken(here.home / "weights", damage)

    said = here.run("sam3-run", "scenes", *PROMPTS, "--model", "weights", "-o", "out", code=3).stderr

    assert "Traceback" not in said
    assert f"run scenes cannot be served: model {here.home / 'weights'}" in said.splitlines()[-1]
    status = here.json("sam3-status", "out")
    assert (status["images"]["pending"], status["images"]["failed"], status["chunks"]["running"]) == (2, 0, 0)
