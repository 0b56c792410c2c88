"""The demo's pictures and their truth: what was drawn can be counted against what was found."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco

from workers.tiny import agreement, demo, scenes
from workers.tiny.__main__ import main


def test_the_files_are_the_scenes_and_the_truth_fits_them(tmp_path: Path) -> None:
    truth = demo.write_demo(tmp_path, count=6, seed=9)
    assert truth == demo.read_truth(tmp_path)
    assert sorted(truth) == sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json")
    assert {Path(name).suffix for name in truth} == {".jpg", ".png"}
    sizes = set()
    for number, (name, answers) in enumerate(truth.items()):
        scene = scenes.scene(9, number, demo.SHORT_SIDE)
        with Image.open(tmp_path / name) as picture:
            sizes.add(picture.size)
            assert picture.size == scene.image.shape[1::-1]
        for mask, encoded in zip(scene.truth("shape"), answers["shape"], strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert coco.area(encoded) == mask.sum()
            assert tuple(coco.toBbox(encoded)) == box
    assert len(sizes) == 6


def test_what_was_drawn_agrees_with_itself(tmp_path: Path) -> None:
    truth = demo.write_demo(tmp_path, count=4, seed=2)
    agreed = demo.compare(truth, truth)
    assert agreed.drawn > 10
    assert (agreed.f1, agreed.precision, agreed.recall, agreed.mean_iou) == (1, 1, 1, 1)


def test_a_missing_a_second_and_a_wrong_instance_are_counted(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:8, 2:8] = True
    elsewhere = np.roll(mask, 10, axis=1)
    truth = {"a.png": {"shape": [demo.rle(mask), demo.rle(elsewhere)]}, "b.png": {"shape": [demo.rle(mask)]}}
    found: dict[str, demo.Answers] = {
        "a.png": {"shape": [demo.rle(mask), demo.rle(mask)]},
        "b.png": {"shape": []},
    }
    assert demo.compare(truth, found) == agreement.Agreement(drawn=3, found=2, matched=1, iou_sum=1.0)


def test_a_file_that_was_not_drawn_has_no_truth() -> None:
    with pytest.raises(KeyError, match=r"other\.png"):
        demo.compare({}, {"other.png": {"shape": []}})


def test_masks_of_arrays_and_of_rle_overlap_alike() -> None:
    drawn = np.array(scenes.scene(1, 4).truth("shape"))
    found = np.roll(drawn, 3, axis=2)
    by_rle = agreement.agree(demo._ious(map(demo.rle, found), map(demo.rle, drawn)))
    by_array = agreement.agree(agreement.mask_ious(found, drawn))
    assert by_rle == by_array
    assert by_array.matched > 0


def test_what_was_not_drawn_or_exported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text("[]")
    ended = CliRunner().invoke(main, ["compare", str(tmp_path), str(tmp_path / "coco.json")])
    assert ended.exit_code == 1
    assert ended.output.count("\n") == 1
    assert "is no COCO export of a run over scenes" in ended.output
