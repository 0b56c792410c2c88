"""YOLO labels hold the masks, with all their parts and holes, and are read as Ultralytics reads them.

Ultralytics itself needs more than a test may install. So the steps here are those of its `verify_image_label`,
`img2label_paths` and `polygon2mask` (ultralytics/data/utils.py, 8.4.190).
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from db.intake import NewRow
from producer.results.choice import Choice
from producer.results.common import ExportRequest, Summary
from producer.results.exports.export_folder import MANIFEST
from producer.results.exports.pixels.polygons import yolo_label
from producer.results.exports.yolo import export_yolo, label_place
from producer.results.files.ledger import LEDGER
from tests.producer.results.conftest import LARGE, SIZE, SMALL, MakeRequest
from tests.producer.results.finished import Done, Finished, Input, Mask, ellipse, finish
from workers.errors import UsageError
from workers.inference.shapes.masks import encode

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_yolo(request, run.images(request), lambda count: None)


def as_read(label: bytes, size: tuple[int, int]) -> list[tuple[int, Mask]]:
    """Class and mask of each line, as Ultralytics makes them; supervision rounds points, but finds the same pixels."""
    found = []
    for line in label.decode().strip().splitlines():
        number, *values = line.split()
        assert len(values) >= 6, "a shorter line is taken for a box"
        points = np.array(values, np.float32).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        pixels = np.zeros(size[::-1], np.uint8)
        scaled = points * np.array(size, np.float32)
        places = np.asarray(scaled, np.int32)
        assert np.array_equal(places, np.round(scaled))
        cv2.fillPoly(pixels, [places], 1)
        found.append((int(number), pixels))
    return found


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def mask_of(size: tuple[int, int], *parts: Mask, holes: tuple[Mask, ...] = ()) -> Mask:
    mask = np.zeros(size[::-1], np.uint8)
    for part in parts:
        mask |= part
    for hole in holes:
        mask &= 1 - hole
    return mask


BIG = (400, 300)
SHAPES = {
    "one part": mask_of(BIG, ellipse(BIG, (200, 150), (90, 60))),
    "three parts": mask_of(BIG, *(ellipse(BIG, (60 + 120 * n, 100 + 30 * n), (30, 40)) for n in range(3))),
    "two holes": mask_of(
        BIG,
        ellipse(BIG, (200, 150), (120, 90)),
        holes=tuple(ellipse(BIG, (150 + 90 * n, 150), (20, 30)) for n in (0, 1)),
    ),
    "an island in a hole": mask_of(
        BIG,
        mask_of(BIG, ellipse(BIG, (200, 150), (120, 90)), holes=(ellipse(BIG, (200, 150), (60, 60)),)),
        ellipse(BIG, (200, 150), (20, 20)),
    ),
    "everything": np.ones(BIG[::-1], np.uint8),
}


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES)
def test_a_polygon_holds_all_parts_and_holes(mask: Mask) -> None:
    [(number, read)] = as_read(yolo_label(BIG[1], BIG[0], [(7, encode(mask))]), BIG)
    assert number == 7
    assert overlap(mask, read) >= 0.985


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_polygons_of_any_small_mask_are_read_as_the_mask(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    centres = data.draw(st.lists(st.tuples(st.integers(0, size[0] - 1), st.integers(0, size[1] - 1)), min_size=1))
    mask = mask_of(size, *(ellipse(size, centre, (3, 2)) for centre in centres))
    [(_, read)] = as_read(yolo_label(size[1], size[0], [(0, encode(mask))]), size)
    assert (read >= mask).mean() > 0.99  # nothing is lost, and what joins the parts is one pixel wide
    if len(centres) == 1:
        assert overlap(mask, read) >= 0.99


def test_the_iou_with_our_masks_is_above_0_99_in_the_mean() -> None:
    random = np.random.default_rng(1)
    ious = []
    for _ in range(40):
        place, radii = random.uniform(40, 200, 2), random.uniform(3, 60, 2)
        mask = ellipse(BIG, (place[0], place[1]), (radii[0], radii[1]))
        [(_, read)] = as_read(yolo_label(BIG[1], BIG[0], [(0, encode(mask))]), BIG)
        ious.append(overlap(mask, read))
    assert np.mean(ious) >= 0.99
    assert min(ious) >= 0.98


def test_the_folder_is_as_ultralytics_expects(run: Finished, request_for: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg"):
        Image.new("RGB", SIZE).save(tmp_path / "in" / name)
    request = request_for("yolo", split=1.0)
    summary = export(run, request)
    assert (summary.images, summary.instances, summary.files) == (3, 3, 3)
    facts = yaml.safe_load((request.out / "data.yaml").read_text())
    assert facts == {"train": "images/train", "val": "images/train", "names": {0: "person", 1: "Red hat"}}
    assert summary.told == ("3 for train", "0 for val, so val is train")

    image = request.out / facts["train"] / "a.jpg"
    with Image.open(image) as opened:
        assert opened.size == SIZE
    label = Path("/labels/".join(str(image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
    found = as_read(label.read_bytes(), SIZE)
    assert [number for number, _ in found] == [0, 0]
    assert all(overlap(mask, read) >= 0.99 for mask, (_, read) in zip((SMALL, LARGE), found, strict=True))
    assert (request.out / "labels/train/sub/b.txt").read_bytes() == b""  # nothing found: an image to learn that from


def test_each_image_keeps_its_part_whatever_else_is_there(tmp_path: Path) -> None:
    rows = [NewRow(f"{number}.jpg", {}) for number in range(60)]
    ends = {row.path: Done({"person": [(0.9, SMALL)]}, SIZE) for row in rows}
    run = finish(tmp_path, Input(tmp_path / "in", rows), ends)
    request = ExportRequest(run.view, Choice(0.5), tmp_path / "yolo", own={"split": 0.7})
    images = run.images(request)
    told = export_yolo(request, images, lambda count: None).told
    train = {path.stem for path in (request.out / "labels/train").iterdir()}
    assert told == (f"{len(train)} for train", f"{60 - len(train)} for val")
    assert 30 <= len(train) <= 52
    assert {path.stem for path in (request.out / "images/train").iterdir()} == train

    half = ExportRequest(run.view, Choice(0.5), tmp_path / "half", own={"split": 0.7})
    export_yolo(half, images[30:], lambda count: None)
    assert {path.stem for path in (half.out / "labels/train").iterdir()} == train & {str(n) for n in range(30, 60)}

    export_yolo(ExportRequest(run.view, Choice(0.5), tmp_path / "yolo", own={"split": 0.0}), images, lambda count: None)
    for kind in ("labels", "images"):
        assert not list((request.out / kind / "train").iterdir())
        assert len(list((request.out / kind / "val").iterdir())) == 60


def test_the_same_export_writes_nothing_and_another_threshold_only_what_differs(
    run: Finished, request_for: MakeRequest
) -> None:
    request = request_for("yolo", split=1.0)
    assert export(run, request).kept == 0
    before = {path: path.lstat().st_ino for path in request.out.rglob("*") if path.name != "data.yaml"}
    assert export(run, request).kept == 3
    assert {path: path.lstat().st_ino for path in before} == before
    assert export(run, request_for("yolo", split=1.0, min_score=0.8)).kept == 1


def test_a_label_that_somebody_has_changed_stays(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("yolo", split=1.0)
    export(run, request)
    label = request.out / "labels/train/a.txt"
    ours = label.read_bytes()
    mended = ours.replace(b"0 ", b"1 ", 1)
    label.write_bytes(mended)
    with pytest.raises(UsageError, match=r"labels/train/a\.txt was not made by an export of ours"):
        export(run, request_for("yolo", split=1.0, min_score=0.8))
    assert label.read_bytes() == mended

    moved = request.out.with_name("moved")
    request.out.rename(moved)
    with pytest.raises(UsageError, match="was not made by an export of ours"):
        export(run, request_for("moved", split=1.0))
    (moved / "labels/train/a.txt").unlink()
    assert export(run, request_for("moved", split=1.0)).files == 3
    assert (moved / "labels/train/a.txt").read_bytes() == ours


@pytest.mark.parametrize("name", [LEDGER, MANIFEST, "data.yaml", "labels/train/a.txt"])
def test_nothing_of_somebody_else_is_replaced_and_no_link_is_followed(
    run: Finished, request_for: MakeRequest, tmp_path: Path, name: str
) -> None:
    request = request_for("yolo", split=1.0)
    theirs = request.out / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(UsageError, match="was not made by an export of ours"):
        export(run, request)
    assert theirs.read_text() == "mine"
    assert name != "data.yaml" or not (request.out / "labels").exists()

    elsewhere = tmp_path / "elsewhere"
    theirs.rename(elsewhere)
    theirs.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a link to somewhere else"):
        export(run, request)
    assert elsewhere.read_text() == "mine"


def test_a_link_of_somebody_else_is_not_turned_to_our_image(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("yolo", split=1.0)
    theirs = request.out / "images/train/a.jpg"
    theirs.parent.mkdir(parents=True)
    theirs.symlink_to("/mnt/other/a.jpg")
    with pytest.raises(UsageError, match=r"a\.jpg is a link that no export of ours made, so it is not changed"):
        export(run, request)
    assert os.readlink(theirs) == "/mnt/other/a.jpg"


def test_images_that_somebody_copied_in_stay_and_links_follow_the_root(
    run: Finished, request_for: MakeRequest, tmp_path: Path
) -> None:
    request = request_for("yolo", split=1.0)
    export(run, request)
    link = request.out / "images/train/a.jpg"
    assert os.readlink(link) == str(tmp_path / "in/a.jpg")
    link.unlink()
    link.write_bytes(b"a copy")
    other = request.out / "images/train/sub/b.jpg"
    other.unlink()
    other.symlink_to("/old/root/b.jpg")
    export(run, request)
    assert link.read_bytes() == b"a copy"
    assert os.readlink(other) == str(tmp_path / "in/sub/b.jpg")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.jpg", "a/b.txt"),
        ("images/b.tar.jpg", "images_/b.tar.txt"),
        ("images_/b", "images__/b.txt"),
        ("x/images/labels/b.jpg", "x/images_/labels/b.txt"),
        ("x.txt/b.jpg", "x.txt_/b.txt"),
        ("../b.jpg", "_up/b.txt"),
    ],
)
def test_no_folder_of_an_image_hides_its_label(path: str, expected: str) -> None:
    assert str(label_place(path, "/data/in")) == expected


def test_a_folder_of_masks_is_no_place_for_labels(run: Finished, request_for: MakeRequest) -> None:
    from producer.results.exports.png import export_png

    request = request_for("masks")
    export_png(request, run.images(request), lambda count: None)
    with pytest.raises(UsageError, match="holds masks: choose another -o for yolo-seg"):
        export(run, request)
