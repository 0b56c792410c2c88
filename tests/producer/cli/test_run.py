"""`sam3-run` as a person uses it: one folder in, one folder out, again, mended, moved, refused."""

import csv
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from producer.cli.run import main as run
from tests.producer.cli.conftest import Shell
from tests.producer.cli.whole_runs import FAKE, pictures, squares
from tests.terminals import Terminal


def test_four_pictures_in_a_csv_become_masks_a_table_and_a_preview(here: Terminal) -> None:
    del here.environment["SAM3_SEGMENTER"]  # the bundled checkpoint
    names = pictures(here.home)
    with (here.home / "pictures.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["picture", "title"], *([f"photos/{name}", f"the {name}"] for name in names)])

    given = ("pictures.csv", "--image-column", "picture", "--prompt", "red circle", "--model", "tiny")
    told = here.run("sam3-run", *given, "--gpus", "cpu", "-o", "out", "--score-floor", "0.2", "--also", "jsonl")

    assert told.stdout.startswith("run pictures: 4 images in 0:")
    assert "\n  jsonl    out/results.jsonl" in told.stdout
    lines = (here.home / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["title"] for line in lines] == [f"the {name}" for name in names]
    assert "\n  4 segmented, 0 empty; " in told.stdout
    assert told.stderr.endswith("Next: sam3-export out --format coco -o out/coco.json\n")
    with (here.home / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("picture", "title", "sam3_status", "sam3_error", "sam3_width", "sam3_height"),
        *("red_circle_instances", "red_circle_score", "red_circle_presence", "red_circle_mask"),
        "red_circle_capped",
    ]
    assert [row["title"] for row in rows] == [f"the {name}" for name in names]
    for name, row in zip(names, rows, strict=True):
        assert row["sam3_status"] == "segmented"
        assert row["red_circle_mask"] == f"masks/red_circle/photos/{name}.png"
        with Image.open(here.home / "photos" / name) as picture:
            size = picture.size
        with Image.open(here.home / "out" / row["red_circle_mask"]) as mask:
            assert mask.size == size == (int(row["sam3_width"]), int(row["sam3_height"]))
            assert mask.getextrema() == (0, 255)
    with Image.open(here.home / "out" / "preview.jpg") as preview:
        assert preview.format == "JPEG"

    again = here.run("sam3-run", "--config", "out/run.yaml", "--json")
    assert '"segmented": 4' in again.stdout
    kept = yaml.safe_load((here.home / "out" / "run.yaml").read_text())
    assert (kept["score_floor"], kept["slugs"]) == (0.2, {"red circle": "red_circle"})
    assert here.json("sam3-export", "out", "--format", "coco", "-o", "coco.json")["images"] == 4


@pytest.mark.long
def test_a_broken_image_ends_with_1_and_is_tried_again_once_it_is_mended(here: Terminal) -> None:
    squares(here, 3)
    broken = here.home / "photos" / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    command = ("sam3-run", "photos", *FAKE, "-o", "photos/out")

    told = here.run(*command, code=1)
    assert told.stdout.splitlines()[1:3] == [
        "  2 segmented, 0 empty, 1 failed; 2 instances",
        "  errors: 1 truncated",
    ]
    assert told.stderr.endswith(f"Next: {' '.join(command)} --retry-failed\n")
    assert "2 segmented, 0 empty, 1 failed" in here.run(*command, "--max-failures", "1").stdout

    Image.new("RGB", (40, 40), "white").save(broken)
    mended = here.run(*command, "--retry-failed")
    assert "1 image to try again" in mended.stderr
    assert "  3 segmented, 0 empty; 3 instances" in mended.stdout

    (here.home / "photos" / "out").rename(here.home / "moved")
    status = here.run("sam3-status", "moved")
    assert "3 total, 3 segmented" in status.stdout
    assert status.stderr == "Next: sam3-export moved --format csv -o photos-results.csv\n"


@pytest.mark.long
def test_a_folder_under_a_new_name_goes_on_in_its_output_and_another_folder_does_not(here: Terminal) -> None:
    squares(here, 2)
    here.run("sam3-run", "photos", *FAKE, "-o", "out")
    (here.home / "photos").rename(here.home / "фото")
    (here.home / "other").mkdir()
    shutil.copy(here.home / "фото" / "001.png", here.home / "other" / "x.png")

    refused = here.run("sam3-run", "other", *FAKE, "-o", "out", code=2).stderr
    assert f"{here.home}/other: does not hold what was recorded from {here.home}/photos, which is gone" in refused
    again = here.run("sam3-run", "фото", *FAKE, "-o", "out")
    assert "run photos: 2 images, nothing left to do" in again.stdout
    assert f"run photos goes on with {here.home}/фото, which was {here.home}/photos\n" in again.stderr
    assert "goes on with" not in here.run("sam3-run", "фото", *FAKE, "-o", "out").stderr
    assert "nothing left to do" in here.run("sam3-run", "--config", "out/run.yaml").stdout
    (here.home / "фото").rename(here.home / "third")
    assert f"goes on with {here.home}/third" in here.run("sam3-run", "third", *FAKE, "-o", "out").stderr


@pytest.mark.long
def test_a_dark_picture_is_done_with_a_warning_and_one_with_stretch_is_found(here: Terminal) -> None:
    """Bright for its 12 bits, in a file of 16: nearly black by the common rule."""
    bright = np.full((40, 40), 3000, np.uint16)
    bright[:20] = 200
    Image.fromarray(bright).save(here.home / "photos" / "deep.png")
    squares(here, 1)
    told = here.run("sam3-run", "photos", *FAKE, "-o", "out")
    warned = "samples of more than 8 bits fill less than a sixteenth of their range"
    assert "  1 segmented, 1 empty; 1 instance\n" in told.stdout
    assert f"  warnings: 1 image: {warned}; a new run with --stretch spreads them, such as deep.png\n" in told.stdout
    [warning] = here.json("sam3-status", "out")["warnings"]
    assert (warning["count"], warning["example"]) == (1, "deep.png")

    stretched = here.run("sam3-run", "photos", *FAKE, "--stretch", "-o", "stretched")
    assert "  2 segmented, 0 empty; 2 instances\n" in stretched.stdout
    assert "warnings" not in stretched.stdout
    assert yaml.safe_load((here.home / "stretched" / "run.yaml").read_text())["stretch"] is True
    assert "nothing left to do" in here.run("sam3-run", "--config", "stretched/run.yaml").stdout
    assert (
        "stretch False there, True here"
        in here.run("sam3-run", "photos", *FAKE, "--stretch", "-o", "out", code=2).stderr
    )


@pytest.mark.long
def test_what_a_folder_leaves_out_is_told_and_earlier_results_in_it_are_no_images(here: Terminal) -> None:
    squares(here, 2)
    (here.home / "photos" / "a.jxl").write_bytes(b"\xff\x0a\xfa\x7f")
    told = here.run("sam3-run", "photos", *FAKE, "-o", "photos/people")
    assert (told.stdout + told.stderr).count("left out: 1 JPEG XL (a.jxl; convert to JPEG), ") == 1
    here.run("sam3-export", "photos/people", "--format", "png", "-o", "photos/copies")

    second = here.json("sam3-run", "photos", *FAKE, "-o", "photos/cars")

    assert second["images"]["total"] == 2
    counts = {one["reason"]: one["count"] for one in second["left_out"]}
    # masks/ with what it says of itself, results.csv, preview.jpg and run.yaml, and the copies' masks.
    assert counts["from sam3-run or sam3-export"] == 3 + 3 + 2
    assert counts["JPEG XL"] == 1
    assert {"reason": "JPEG XL", "count": 1, "example": "a.jxl"} in second["left_out"]


def test_a_format_that_cannot_be_written_as_well_is_refused_before_any_work(here: Terminal) -> None:
    squares(here, 1)
    (here.home / "out").mkdir()
    (here.home / "out" / "coco.json").write_text("{}")
    given = ("sam3-run", "photos", *FAKE, "-o", "out", "--also", "jsonl", "--also", "coco")
    refused = here.run(*given, code=2).stderr
    assert refused.startswith("sam3-run: error: out/coco.json was not made by an export of ours")
    assert [path.name for path in (here.home / "out").iterdir()] == ["coco.json"]


def test_a_format_that_is_refused_at_the_end_keeps_neither_the_summary_nor_later_formats_back(here: Terminal) -> None:
    squares(here, 1)
    Image.new("RGB", (40, 40), "white").save(here.home / "photos" / "000.jpg")
    given = ("sam3-run", "photos", *FAKE, "-o", "out", "--also", "labelme", "--also", "jsonl")
    told = here.run(*given, code=2)
    assert told.stdout.startswith("run photos: 2 images in ")
    assert "\n  jsonl    out/results.jsonl" in told.stdout
    assert len((here.home / "out" / "results.jsonl").read_text().splitlines()) == 2
    refused = "000.jpg and 000.png would both be 000.json: rename one of them"
    assert f"error: --also labelme: {refused}\n" in told.stderr
    assert "labelme" not in told.stdout
    facts = here.json(*given, "--json", code=2)
    assert facts["refused"] == {"labelme": refused}
    assert list(facts["files"]) == ["results", "masks", "preview", "jsonl"]


@pytest.mark.parametrize(
    ("given", "code", "fault"),
    [
        (("nowhere",), 2, "nowhere: not found; check the path"),
        (("photos", "--image-column", "path"), 2, "photos is a folder: --prompt-column, --box-column, --image-column"),
        (("photos", "--image-root", "."), 2, "photos is a folder: --prompt-column, --box-column, --image-column"),
        (("photos", "--run", "a b"), 2, "--run 'a b': use letters, digits, dots, dashes and underscores"),
        (("photos", "--model", "nowhere"), 2, "model nowhere: no such folder, nor a name like facebook/sam3"),
        (("photos", "--model", "facebook/sam3"), 3, "cannot download facebook/sam3: "),
        (("photos", "--model", "tiny", "--gpus", "cpu", "-o", "/proc/out"), 2, "/proc/out: cannot write there"),
        (("photos", "-o", "/proc/out"), 2, "/proc/out: cannot write there"),
        (("photos", "-o", "photos"), 2, "photos: is the output folder too; choose another with -o"),
        (("empty",), 2, "empty: no images in it or below it; give a folder with JPEG, PNG, "),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_is_recorded(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], code: int, fault: str
) -> None:
    monkeypatch.delenv("SAM3_STATE_DIR")
    (shell.home / "empty").mkdir()
    (shell.home / "photos").mkdir()
    (shell.home / "photos" / "a.jpg").touch()

    assert fault in shell(run, "-o", "out", "--prompt", "person", *given, code=code).error

    assert not list(shell.home.glob("**/run.yaml"))
    assert not list(shell.home.glob("**/sam3.db"))


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(here: Terminal) -> None:
    squares(here, 3)
    (here.home / "photos" / "notes.txt").write_text("mine")

    told = here.run("sam3-run", "photos", *FAKE, "-o", "out", "--dry-run")

    assert told.stdout.startswith("would record run photos: 3 images in 1 chunk; prompts: [")
    assert f"  image: {here.home / 'photos' / '000.png'}\n" in told.stdout
    assert "left out: 1 not an image (notes.txt)" in told.stderr
    assert not (here.home / "out").exists()


def test_a_refused_command_leaves_no_new_folder_and_takes_nothing_from_an_old_one(here: Terminal) -> None:
    table = here.home / "faces.csv"
    table.write_text("path\nnot/there.png\n")
    (here.home / "old").mkdir()
    (here.home / "old" / "mine.txt").write_text("mine")
    for output in ("new/out", "old", "old/new"):
        refused = here.run("sam3-run", "faces.csv", *FAKE, "-o", output, code=2)
        assert "its image is not there" in refused.stderr
    assert not (here.home / "new").exists()
    assert not (here.home / "old" / "new").exists()
    assert (here.home / "old" / "mine.txt").read_text() == "mine"


def test_a_run_whose_rows_are_all_rejected_advises_to_correct_them_and_no_export(here: Terminal) -> None:
    (here.home / "faces.csv").write_text("path\nhttp://example.org/a.png\n")
    told = here.run("sam3-run", "faces.csv", *FAKE, "-o", "out", code=1)
    dry_run = "Next: the same command with --dry-run says why rows are rejected; correct them, then run it again\n"
    assert told.stderr.endswith(dry_run)
    assert "rejected: " in here.run("sam3-run", "faces.csv", *FAKE, "-o", "out", "--dry-run", code=1).stderr


@pytest.mark.long
def test_rows_that_are_gone_are_told_apart_in_the_summary(here: Terminal) -> None:
    squares(here, 3)
    (here.home / "photos" / "broken.png").write_text("no picture")
    table = here.home / "faces.csv"
    table.write_text(
        "path\nphotos/000.png\nphotos/001.png\nphotos/002.png\nphotos/broken.png\nhttp://example.org/a.png\n"
    )
    command = ("sam3-run", "faces.csv", *FAKE, "-o", "out")
    assert "3 segmented, 0 empty, 1 failed, 1 rejected" in here.run(*command, code=1).stdout
    table.write_text("path\nphotos/000.png\nphotos/002.png\n")
    ended = here.run(*command)
    assert ended.stdout.startswith("run faces: 2 images, nothing left to do\n")
    gone = "gone: 3 rows no longer in faces.csv, so not in the results; what was found in them before is counted above"
    assert f"\n  3 segmented, 0 empty; 3 instances\n  {gone}\n" in ended.stdout
    assert "--retry-failed" not in ended.stderr
