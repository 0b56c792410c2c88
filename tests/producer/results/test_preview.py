"""The contact sheet shows what is worth a look, and never fails for the sake of one file."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from db.intake import NewRow
from db.session import reading
from producer.results.overlay import COLOURS
from producer.results.preview import choose, told_found, write_preview
from tests.producer.results.finished import Done, Failed, Finished, Input, ellipse, finish
from workers.errors import UsageError

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FACE = ((224, 110), (60, 80))  # the astronaut's face: centre and radii, in 512 x 512 pixels


def astronaut() -> Image.Image:
    return Image.open(Path(data.__file__).with_name("astronaut.png"))


def sheet(run: Finished, out: Path, seed: int = 0) -> int:
    return write_preview(run.view, run.sessions, out, seed=seed)


def kinds(run: Finished, seed: int = 0) -> dict[str, list[int]]:
    with reading(run.sessions) as session:
        tiles = choose(run.view, session, seed)
    grouped: dict[str, list[int]] = {}
    for tile in tiles:
        grouped.setdefault(tile.kind, []).append(tile.image.row)
    return grouped


@pytest.fixture
def face(tmp_path: Path) -> Finished:
    """One photograph with one mask."""
    (tmp_path / "in").mkdir()
    astronaut().save(tmp_path / "in" / "astronaut.jpg")
    done = Done({"person": [(0.9, ellipse((512, 512), *FACE))]}, (512, 512))
    return finish(tmp_path, Input(tmp_path / "in", [NewRow("astronaut.jpg")], ("person",)), {"astronaut.jpg": done})


@pytest.fixture
def many(tmp_path: Path) -> Finished:
    """100 rows: every fifth failed, every fifth empty, every fifth pending, the others with a growing number of masks.

    The files do not exist.
    """
    masks = [ellipse((40, 30), (5 + 3 * number, 15), (3, 9)) for number in range(10)]
    ends: dict[str, Done | Failed] = {}
    for row in range(1, 101):
        if row % 5 == 0:
            ends[f"{row}.jpg"] = Failed("missing", "no such file")
        elif row % 5 == 1:
            ends[f"{row}.jpg"] = Done({}, (40, 30))
        elif row % 5 < 4:
            found = [(1 - row / 250 - rank / 1000, mask) for rank, mask in enumerate(masks[: row // 10 + 1])]
            ends[f"{row}.jpg"] = Done({"person": found}, (40, 30))
    rows = [NewRow(f"{row}.jpg") for row in range(1, 101)]
    return finish(tmp_path, Input(tmp_path, rows), ends)


def test_the_mask_is_drawn_where_the_face_is(face: Finished, tmp_path: Path) -> None:
    assert sheet(face, tmp_path / "out" / "preview.jpg") == 1
    with Image.open(tmp_path / "out" / "preview.jpg") as preview:
        assert preview.format == "JPEG"
        pixels = np.asarray(preview, dtype=np.int64)
    # one tile of 960 x 720 pixels at (10, 58): the square picture stands in its middle, 720 pixels wide
    left, top, scale = 10 + 120, 58, 720 / 512
    shown = pixels[top : top + 720, left : left + 720]
    plain = np.asarray(astronaut().resize((720, 720)), dtype=np.int64)
    change = np.abs(shown - plain).sum(axis=2)
    (x, y), (rx, ry) = FACE
    inside = ellipse((720, 720), (x * scale, y * scale), (rx * scale * 0.9, ry * scale * 0.9)) > 0
    outside = ellipse((720, 720), (x * scale, y * scale), (rx * scale * 1.6, ry * scale * 1.6)) == 0
    assert change[inside].mean() > 80
    assert change[outside].mean() < 15


@pytest.mark.parametrize("ground", [(255, 0, 0), (255, 255, 255), (0, 0, 0), (128, 128, 128), *COLOURS])
def test_every_mask_has_an_edge_that_is_seen_on_any_colour(tmp_path: Path, ground: tuple[int, int, int]) -> None:
    size, radii = (960, 720), (60, 100)
    centres = [(96 + 192 * (number % 5), 180 + 360 * (number // 5)) for number in range(10)]
    Image.new("RGB", size, ground).save(tmp_path / "plain.png")
    done = Done({"person": [(0.9 - 0.01 * rank, ellipse(size, at, radii)) for rank, at in enumerate(centres)]}, size)
    run = finish(tmp_path, Input(tmp_path, [NewRow("plain.png")]), {"plain.png": done})

    sheet(run, tmp_path / "preview.jpg")

    with Image.open(tmp_path / "preview.jpg") as preview:  # one tile of this size, at (10, 58)
        grey = np.asarray(preview.convert("L"), dtype=np.int64)[58 : 58 + 720, 10 : 10 + 960]
    for x, y in centres:
        edge = [grey[y - radii[1] - 6 : y - radii[1] + 7, x], grey[y, x + radii[0] - 6 : x + radii[0] + 7]]
        assert all(line.max() - line.min() > 150 for line in edge)


@pytest.mark.parametrize(("orientation", "turned"), [("exif", True), ("raw", False)])
def test_a_turned_photograph_follows_the_runs_orientation(tmp_path: Path, orientation: str, turned: bool) -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.getexif()[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=image.getexif())
    done = Done({}, (100, 300) if turned else (300, 100))
    run = finish(tmp_path, Input(tmp_path, [NewRow("a.jpg")], orientation=orientation), {"a.jpg": done})
    sheet(run, tmp_path / "p.jpg")
    with Image.open(tmp_path / "p.jpg") as preview:
        red = np.asarray(preview)[..., 0] > 200
    rows, columns = np.ptp(np.nonzero(red.mean(axis=1) > 0.1)[0]), np.ptp(np.nonzero(red.mean(axis=0) > 0.1)[0])
    assert (rows > columns) == turned


def test_every_kind_is_shown_and_no_image_twice(many: Finished) -> None:
    shown = kinds(many)
    assert list(shown) == ["most instances", "lowest score", "empty", "failed", "random"]
    rows = [row for kind in shown.values() for row in kind]
    assert len(rows) == len(set(rows)) == 25
    assert shown["most instances"] == [92, 93, 97, 98, 82]
    assert all(row % 5 == 0 for row in shown["failed"])
    assert all(row % 5 == 1 for row in shown["empty"])
    assert not any(row % 5 == 4 for row in rows)


def test_the_seed_decides_about_the_random_ones(many: Finished, tmp_path: Path) -> None:
    assert kinds(many, seed=1)["random"] != kinds(many, seed=2)["random"]
    for name in ("a.jpg", "b.jpg"):
        sheet(many, tmp_path / name, seed=1)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_files_that_cannot_be_opened_any_more_are_grey_tiles(many: Finished, tmp_path: Path) -> None:
    (tmp_path / "92.jpg").write_bytes(b"not a picture")
    (tmp_path / "93.jpg").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "97.jpg")
    (tmp_path / "97.jpg").write_bytes((tmp_path / "97.jpg").read_bytes()[:-50])
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(tmp_path / "98.jpg", format="PNG")
    assert sheet(many, tmp_path / "p.jpg") == 25


@pytest.mark.parametrize("kind", ["wrong checksum beside it", "samples in planes", "deep", "a JPEG"])
def test_what_a_worker_could_read_is_shown_as_the_model_saw_it(tmp_path: Path, kind: str) -> None:
    green = np.zeros((64, 64, 3), np.uint8) + np.array([0, 128, 0], np.uint8)
    path = tmp_path / "a.png"
    match kind:
        case "a JPEG":
            Image.fromarray(green).save(path, format="JPEG")
        case "samples in planes":
            tifffile.imwrite(path, np.moveaxis(green, 2, 0), photometric="rgb", planarconfig="separate")
        case "deep":
            tifffile.imwrite(path, green.astype(np.uint16) * 257, photometric="rgb")
        case _:
            Image.fromarray(green).save(path)
            whole = path.read_bytes()
            path.write_bytes(whole[:33] + b"\0\0\0\1gAMAx" + bytes(4) + whole[33:])
    run = finish(tmp_path, Input(tmp_path, [NewRow("a.png")]), {"a.png": Done({}, (64, 64))})

    sheet(run, tmp_path / "preview.jpg")

    with Image.open(tmp_path / "preview.jpg") as preview:  # one tile of 960 x 720 at (10, 58)
        assert np.abs(np.asarray(preview, dtype=np.int64)[58 + 360, 10 + 480] - [0, 128, 0]).max() < 12


def test_names_and_prompts_of_any_kind_find_room(tmp_path: Path) -> None:
    names = ["a" * 200 + ".png", "照片 é\n2.png"]
    prompts = [f"a rather long prompt, the {number}th of many" for number in range(40)]
    rows = [NewRow(name, None, tuple(prompts)) for name in names]
    ends = {name: Done({text: [(0.9, ellipse((512, 512), *FACE))] for text in prompts}, (512, 512)) for name in names}
    for name in names:
        astronaut().save(tmp_path / name)
    assert sheet(finish(tmp_path, Input(tmp_path, rows, ()), ends), tmp_path / "p.jpg") == 2


def test_a_run_without_any_end_has_no_sheet(tmp_path: Path) -> None:
    run = finish(tmp_path, Input(tmp_path, [NewRow("a.jpg")]), {})
    assert sheet(run, tmp_path / "p.jpg") == 0
    assert not (tmp_path / "p.jpg").exists()


def test_a_folder_as_target_is_refused(face: Finished, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        sheet(face, tmp_path)


def test_a_caption_says_of_which_prompt_there_may_be_more(tmp_path: Path) -> None:
    masks = [(0.9 - rank / 10, ellipse((40, 30), (20, 15), (5, 5))) for rank in range(3)]
    done = Done({"person": masks, "hat": masks[:1]}, (40, 30), capped=["person"])
    run = finish(tmp_path, Input(tmp_path, [NewRow("a.jpg")], ("person", "hat")), {"a.jpg": done})
    with reading(run.sessions) as session:
        [tile] = choose(run.view, session, 0)

    assert told_found(run.view, tile.image) == "3 person (capped) · 1 hat · best 0.90"
