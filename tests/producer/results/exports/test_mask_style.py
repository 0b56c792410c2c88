"""Masks for the next tool: a file an instance, label maps, masks of empty images, other edges, other names."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from db.intake import NewRow
from producer.results.choice import Choice
from producer.results.common import ExportRequest, Summary
from producer.results.exports.csv_file import export_csv
from producer.results.exports.mask_folder import MANIFEST, read_mask_folder
from producer.results.exports.pixels.drawing import colour, edited
from producer.results.exports.png import LEGEND, export_png
from producer.results.files.names import mask_path, sharing
from tests.producer.results.conftest import LARGE, SIZE, SMALL, MakeRequest
from tests.producer.results.finished import Done, Finished, Input, finish
from workers.errors import UsageError

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_png(request, run.images(request), lambda count: None)


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.name not in (MANIFEST, LEGEND))


def pixels(file: Path) -> NDArray[np.int64]:
    with Image.open(file) as image:
        return np.asarray(image).astype(np.int64)


def test_with_each_every_instance_has_a_file_and_those_of_an_earlier_export_go(
    run: Finished, request_for: MakeRequest
) -> None:
    request = request_for("each", each=True, min_score=0.3)
    summary = export(run, request)
    assert [name for name in files(request.out) if name.startswith("person")] == [
        f"person/a.jpg_{n}.png" for n in (1, 2, 3)
    ]
    assert summary.files == summary.instances == 5
    assert np.array_equal(pixels(request.out / "person/a.jpg_2.png"), LARGE * 255)

    assert export(run, request_for("each", each=True, min_score=0.8)).kept == 1
    assert files(request.out) == ["person/a.jpg_1.png"]


def test_numbers_of_instances_never_make_the_name_of_another_image() -> None:
    names = [
        str(mask_path("p", path, template=f"{{name}}_{n}.png"))
        for path in ("a", "a_1", "a_1_1", "1", "a1")
        for n in range(1, 30)
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("empty", [None, "black"])
def test_masks_of_empty_images_are_written_if_asked_for_and_then_go_again(
    run: Finished, request_for: MakeRequest, empty: str | None
) -> None:
    """Tools that pair images and masks drop an image without a mask."""
    request = request_for("masks", empty="black")
    assert export(run, request).files == 6  # 3 images x 2 prompts
    assert not pixels(request.out / "person/sub/b.jpg.png").any()
    table = request_for("r.csv", masks="masks")
    assert export_csv(table, run.images(table), lambda count: None).blank_masks == 0
    with table.out.open(newline="") as file:
        cells = [row[f"{prompt}_mask"] for row in csv.DictReader(file) for prompt in ("person", "red_hat")]
    assert len(list(filter(None, cells))) == 8  # the duplicate names its two masks again

    again = export(run, request_for("masks", **({"empty": empty} if empty else {})))
    assert (again.files, again.kept) == ((6, 6) if empty else (2, 2))
    assert len(files(request.out)) == again.files


def disk(radius: float) -> NDArray[np.uint8]:
    y, x = np.mgrid[-40:41, -40:41]
    return np.asarray(np.where(x * x + y * y <= radius * radius, 255, 0), np.uint8)


@pytest.mark.parametrize("by", [1, 5, -3])
def test_dilate_makes_a_mask_larger_by_so_many_pixels_in_all_directions(by: int) -> None:
    grown = edited(disk(20), dilate=by)
    assert abs(np.sqrt((grown > 0).sum() / np.pi) - 20 - by) < 0.5
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * abs(by) + 1,) * 2)
    row = (cv2.dilate if by > 0 else cv2.erode)(disk(20), kernel)[40]  # through the centre both reach as far
    assert np.array_equal(grown[40], row)


def test_a_mask_that_touches_the_border_still_does_when_it_is_made_smaller() -> None:
    half = np.zeros((20, 20), np.uint8)
    half[:, :10] = 255
    assert np.array_equal(edited(half, dilate=-2)[:, 0], half[:, 0])
    for full in (np.zeros((9, 9), np.uint8), np.full((9, 9), 255, np.uint8)):
        for same in (*(edited(full, dilate=by) for by in (3, -3)), edited(full, feather=3), edited(full, trimap=3)):
            assert np.array_equal(same, full)


def test_a_feathered_edge_rises_from_0_to_255_and_a_trimap_is_unknown_within_its_band() -> None:
    wall = np.zeros((5, 40), np.uint8)
    wall[:, 20:] = 255
    soft = edited(wall, feather=4)[2].astype(int)
    assert (soft[:16] == 0).all()
    assert (soft[24:] == 255).all()
    assert (np.diff(soft[15:25]) > 0).all()
    assert (soft[16:24] + soft[16:24][::-1] == 255).all()
    assert edited(wall, trimap=3)[2].tolist() == [0] * 17 + [128] * 6 + [255] * 17
    assert edited(wall, trimap=3, invert=True)[2].tolist() == [255] * 17 + [128] * 6 + [0] * 17


def test_an_edited_mask_is_another_mask_and_the_csv_names_it_only_as_such(
    run: Finished, request_for: MakeRequest
) -> None:
    """The manifest says how the masks of a folder look; a mask that looks otherwise is written anew."""
    request = request_for("masks", invert=True, dilate=2)
    assert export(run, request).kept == 0
    assert export(run, request).kept == 2
    table = request_for("r.csv", masks="masks")
    assert export_csv(table, run.images(table), lambda count: None).blank_masks == 0

    plain = request_for("plain")
    export(run, plain)
    inverted = pixels(request.out / "person/a.jpg.png")
    assert inverted[LARGE > 0].max() == 0
    (request.out / "person/a.jpg.png").write_bytes((plain.out / "person/a.jpg.png").read_bytes())
    assert export_csv(table, run.images(table), lambda count: None).blank_masks == 2  # the row and its duplicate
    assert export(run, request_for("masks")).kept == 1


def test_a_label_map_holds_the_number_of_a_prompt_or_of_an_instance(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("index", index="prompt", min_score=0.4)
    assert export(run, request).files == 2
    with Image.open(request.out / "a.jpg.png") as image:
        assert (image.mode, image.size) == ("P", SIZE)
        assert (image.getpalette() or [])[: 3 * 3] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        labels = np.asarray(image)
    assert (labels[(SMALL | LARGE) > 0] == 1).all()
    assert set(np.unique(labels)) == {0, 1, 2}
    legend = json.loads((request.out / LEGEND).read_text())
    assert (legend["1"], legend["2"]) == ("person", "Red hat")

    request = request_for("instances", index="instance", min_score=0.4)
    export(run, request)
    labels = pixels(request.out / "a.jpg.png")
    assert (labels[SMALL > 0] == 1).all()  # the highest score is in front
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_a_label_map_of_more_than_255_numbers_has_16_bits(tmp_path: Path) -> None:
    prompts = [f"p{number}" for number in range(300)]
    found = Done({prompts[299]: [(0.9, SMALL)]}, SIZE)
    run = finish(tmp_path, Input(tmp_path, [NewRow("a.jpg", {})], prompts), {"a.jpg": found})
    request = ExportRequest(run.view, Choice(0.5), tmp_path / "masks", own={"index": "prompt"})
    export(run, request)
    with Image.open(request.out / "a.jpg.png") as image:
        assert image.mode == "I;16"
    assert np.array_equal(pixels(request.out / "a.jpg.png"), SMALL * np.int64(300))


def test_the_palette_is_that_of_pascal_voc() -> None:
    assert [colour(number) for number in (0, 1, 2, 3, 8, 15, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0), (192, 128, 128), (224, 224, 192)
    ]  # fmt: skip


def test_a_template_names_the_files(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("masks", name="{stem}_mask.png")
    export(run, request)
    assert "person/a_mask.png" in files(request.out)
    table = request_for("r.csv", masks="masks")
    assert export_csv(table, run.images(table), lambda count: None).blank_masks == 0
    assert "masks/person/a_mask.png" in table.out.read_text()


def test_images_that_would_share_a_file_are_found() -> None:
    def place(path: str) -> str:
        return str(mask_path("", path, template="{stem}.png"))

    assert sharing(lambda: ["a.jpg", "./a.jpg", "b/a.png", "b.c/a.jpg"], place) is None
    assert sharing(lambda: ["a.jpg", "b.jpg", "x/../a.png"], place) == ("a.jpg", "a.png")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"each": True, "index": "prompt"}, "--each and --index"),
        ({"index": "prompt", "dilate": 2}, "its pixels are numbers, so --dilate cannot change them"),
        ({"each": True, "empty": "black"}, "none without one"),
        ({"feather": 2, "trimap": 2}, "an edge is soft or unknown"),
        ({"name": "x.png"}, "it needs {stem} or {name}"),
        ({"name": "{stem}.jpg"}, "ends with .png"),
        ({"name": "{stem}"}, "or is {name} alone"),
        ({"name": "{name}", "each": True}, "needs {n} once"),
        ({"name": "../{stem}.png"}, "has no /"),
        ({"name": "{stem"}, "write it like {name}.png"),
        ({"name": "{stem!r}.png"}, "no other braces"),
        ({"name": "{row}.png"}, "no other braces"),
        ({"name": "{stem}_{n}.png"}, "add --each"),
        ({"name": "{stem}.png", "each": True}, "needs {n} once"),
        ({"name": "{stem}{n}.png", "each": True}, "a character that is no digit"),
        ({"name": "{stem}" + "x" * 40 + ".png"}, "30 characters"),
    ],
)
def test_flags_that_exclude_each_other_are_refused_before_anything_is_written(
    run: Finished, request_for: MakeRequest, own: dict[str, object], said: str
) -> None:
    request = request_for("masks", **own)
    with pytest.raises(UsageError) as error:
        export(run, request)
    assert said in str(error.value)
    assert not request.out.exists()


def test_a_folder_has_one_kind_of_names(run: Finished, request_for: MakeRequest) -> None:
    export(run, request_for("masks", each=True))
    before = read_mask_folder(request_for("masks").out)
    for own in ({}, {"index": "prompt"}, {"name": "{stem}.png"}):
        with pytest.raises(UsageError, match=r"holds masks of other names \(--each\): choose another -o"):
            export(run, request_for("masks", **own))
    assert read_mask_folder(request_for("masks").out) == before


def test_a_table_cannot_name_masks_of_single_instances(run: Finished, request_for: MakeRequest) -> None:
    export(run, request_for("masks", each=True))
    table = request_for("r.csv", masks="masks")
    with pytest.raises(UsageError, match="was made with --each, but a cell names the mask of one prompt in an image"):
        export_csv(table, run.images(table), lambda count: None)
    assert not table.out.exists()
