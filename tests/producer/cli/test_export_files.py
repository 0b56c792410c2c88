"""`sam3-export` as it is typed, for formats that write a file for each image."""

import csv
import shlex

import pytest

from db.intake import NewRow
from producer.cli.export import main as export
from tests.db.scenario import claim, commit, done, load, rows
from tests.producer.cli.conftest import Shell

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(autouse=True)
def faces(shell: Shell) -> None:
    """Three images, of which two differ only in their suffix; nothing was found in the last one."""
    held = claim(shell.sessions, load(shell.sessions, rows("a/1.jpg", "a/1.png", "a/2.jpg")))
    one, two, three = held.images
    commit(shell.sessions, held, [done(one, 0.9, 0.6), done(two, 0.6), done(three)])


def names(shell: Shell, folder: str) -> list[str]:
    return sorted(str(path.relative_to(shell.home / folder)) for path in (shell.home / folder).rglob("*.png"))


def test_names_that_two_images_would_share_are_refused_before_anything_is_written(shell: Shell) -> None:
    for template in ("{stem}.png", "{stem}_mask.png"):
        refused = shell(export, "faces", "--format", "png", "--name", template, "-o", "masks", code=2).error
        assert "a/1.jpg and a/1.png would both be a/1" in refused
        assert "use --name with {name}" in refused
        assert not (shell.home / "masks").exists()

    shell(export, "faces", "--format", "png", "--name", "{name}_mask.png", "-o", "masks")
    assert names(shell, "masks") == ["person/a/1.jpg_mask.png", "person/a/1.png_mask.png"]


def test_masks_may_be_called_exactly_like_their_images_but_never_replace_one(shell: Shell) -> None:
    image = shell.home / "a/1.jpg"
    image.parent.mkdir()
    image.write_text("a picture")
    shell(export, "faces", "--format", "png", "--empty", "black", "--name", "{name}", "-o", ".")
    assert sorted(path.name for path in (shell.home / "person/a").iterdir()) == ["1.jpg", "1.png", "2.jpg"]
    label_maps = ("--format", "png", "--index", "prompt", "--name", "{name}")
    (shell.home / ".sam3-masks.json").unlink()
    assert "was not made by an export of ours" in shell(export, "faces", *label_maps, "-o", ".", code=2).error
    assert image.read_text() == "a picture"


def test_each_image_has_a_mask_if_the_next_tool_wants_one(shell: Shell) -> None:
    shell(export, "faces", "--format", "png", "--empty", "black", "--invert", "-o", "masks", "--jobs", "2")
    assert names(shell, "masks") == [f"person/a/{name}.png" for name in ("1.jpg", "1.png", "2.jpg")]


def test_a_hint_about_blank_masks_repeats_how_the_masks_were_made(shell: Shell) -> None:
    how = ("--empty", "black", "--dilate", "2", "--name", "{name}_m.png")
    shell(export, "faces", "--format", "png", *how, "-o", "masks")
    (shell.home / "masks/person/a/2.jpg_m.png").unlink()
    told = shell(export, "faces", "--format", "csv", "--masks", "masks", "-o", "t.csv", code=1)
    assert told.err.splitlines()[1] == "1 mask left blank: masks has none made from the same instances"
    for command in told.err.splitlines()[2].removeprefix("Next: ").split(" && "):
        shell(export, *shlex.split(command)[1:])
    with (shell.home / "t.csv").open(newline="") as file:
        assert [row["person_mask"] for row in csv.DictReader(file)] == [
            f"masks/person/a/{name}_m.png" for name in ("1.jpg", "1.png", "2.jpg")
        ]


def test_labels_that_two_images_would_share_are_refused(shell: Shell) -> None:
    refused = shell(export, "faces", "--format", "yolo-seg", "-o", "yolo", code=2).error
    assert "a/1.jpg and a/1.png would both be a/1.txt: rename one of them" in refused
    assert not (shell.home / "yolo").exists()


def test_one_image_in_two_rows_is_refused_where_a_file_holds_all_of_an_image(shell: Shell) -> None:
    new = [NewRow("x.jpg", {}, ("dog",)), NewRow("./x.jpg", {}, ("cat",))]
    held = claim(shell.sessions, load(shell.sessions, new, name="pets", prompts=()))
    commit(shell.sessions, held, [done(image, 0.9) for image in held.images])
    for how in (("yolo-seg",), ("png", "--index", "prompt")):
        refused = shell(export, "pets", "--format", *how, "-o", "out", code=2).error
        assert "x.jpg is in two rows with different prompts or boxes" in refused
    shell(export, "pets", "--format", "png", "--name", "{stem}.png", "-o", "masks")
    assert names(shell, "masks") == ["cat/x.png", "dog/x.png"]


def test_two_spellings_of_one_image_are_not_taken_for_two_images(shell: Shell) -> None:
    new = [NewRow("x.jpg", {}, ("dog",)), NewRow("/data/x.jpg", {}, ("cat",))]
    held = claim(shell.sessions, load(shell.sessions, new, name="pets", prompts=()))
    commit(shell.sessions, held, [done(image, 0.9) for image in held.images])

    refused = shell(export, "pets", "--format", "labelme", "-o", "out", code=2).error

    assert "x.jpg and /data/x.jpg are one image, and labelme would have one file for both" in refused
    shell(export, "pets", "--format", "png", "--name", "{stem}.png", "-o", "masks")
    assert names(shell, "masks") == ["cat/x.png", "dog/x.png"]


def test_a_yolo_folder_is_written_told_and_kept(shell: Shell) -> None:
    new = rows("b/1.jpg", "b/2.gif")
    held = claim(shell.sessions, load(shell.sessions, new, name="birds", prompts=("red bird",)))
    commit(shell.sessions, held, [done(image) for image in held.images])
    told = shell(export, "birds", "--format", "yolo-seg", "--split", "0", "-o", "y").err
    said = "0 for train, so train is val; 2 for val; 1 with a suffix that Ultralytics does not read"
    assert told == f"y: 2 images, 0 instances; {said}\n"
    assert shell(export, "birds", "--format", "yolo-seg", "--split", "0", "-o", "y", "--json").json["kept"] == 2
    assert (shell.home / "y/images/val/b/1.jpg").is_symlink()
    refused = shell(export, "faces", "--format", "png", "--split", "1", "-o", "m", code=2).error
    assert "--split 1.0: only --format yolo-seg has a part for training" in refused


def test_flags_of_masks_go_with_masks_only(shell: Shell) -> None:
    refused = shell(export, "faces", "--format", "coco", "--trimap", "3", "-o", "c.json", code=2).error
    assert "--trimap 3: only --format png has masks that are made in that way" in refused
    refused = shell(export, "faces", "--format", "png", "--trimap", "3", "--feather", "3", "-o", "m", code=2).error
    assert "an edge is soft or unknown; give one of them" in refused
    assert not (shell.home / "m").exists()
