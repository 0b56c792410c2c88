"""`--redo` and what is told of changed pictures, as a person meets them."""

import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from db.models import Image as ImageRow
from producer.cli.enqueue import main as enqueue
from producer.cli.flags.redo import without_redo
from tests.db import scenario
from tests.producer.cli.conftest import Shell
from tests.terminals import Terminal

GIVEN = ("--csv", "faces.csv", "--prompt", "person")
FAKE = ("--prompt", "person", "--model", "any/model", "--gpus", "cpu")


@pytest.fixture
def faces(shell: Shell, broker: str, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Three pictures, computed: two with somebody, one without."""
    monkeypatch.delenv("SAM3_NO_CHECK")
    for number in range(3):
        (shell.home / f"{number}.jpg").write_bytes(b"a picture")
    (shell.home / "faces.csv").write_text("path\n0.jpg\n1.jpg\n2.jpg\n")
    shell(enqueue, *GIVEN)
    held = scenario.claim(shell.sessions, 1, 1)
    one, two, three = held.images
    scenario.commit(shell.sessions, held, [scenario.done(one, 0.9), scenario.done(two, 0.9), scenario.done(three)])
    with shell.sessions.begin() as session:
        for image in session.query(ImageRow):
            seen = os.stat(shell.home / image.path)
            image.file_size, image.file_mtime_ns = seen.st_size, seen.st_mtime_ns
    return shell


def test_the_same_command_tells_how_many_changed_and_redo_takes_them_up(faces: Shell) -> None:
    (faces.home / "1.jpg").write_bytes(b"another one")

    told = faces(enqueue, *GIVEN)
    assert told.err.splitlines()[0] == "1 image changed since it was read: --redo changed computes it again"
    assert faces(enqueue, *GIVEN, "--json").json["changed"] == 1
    assert "changed" not in faces(enqueue, *GIVEN, "--no-check").err

    again = faces(enqueue, *GIVEN, "--redo", "changed")
    assert again.err.splitlines() == ["1 image to compute again", "Next: sam3-status faces --watch"]
    assert "1 queued now, 2 already done" in again.out
    assert scenario.states(faces.sessions, 1) == ["done", "pending", "done"]
    assert faces(enqueue, *GIVEN, "--redo", "changed", "--json").json["redone"] == 0


@pytest.mark.parametrize(("which", "count"), [("all", 3), ("empty", 1), ("failed", 0)])
def test_the_other_choices_take_up_their_own(faces: Shell, which: str, count: int) -> None:
    assert faces(enqueue, *GIVEN, "--redo", which, "--json").json["redone"] == count


def test_nothing_is_told_where_nothing_changed(faces: Shell) -> None:
    assert faces(enqueue, *GIVEN).err == "Next: sam3-export faces --format csv -o faces-results.csv\n"


def test_the_command_of_a_hint_does_not_redo_again() -> None:
    assert without_redo(["a", "--redo", "all", "-o", "out"]) == ["a", "-o", "out"]
    assert without_redo(["a", "--redo=all", "-o", "out"]) == ["a", "-o", "out"]


@pytest.fixture
def photos(terminal: Terminal) -> Path:
    """Three white squares, each of which is found."""
    del terminal.environment["SAM3_STATE_DIR"]
    folder = terminal.home / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), "white").save(folder / f"{number}.png")
    return folder


def statuses(home: Path) -> list[str]:
    with (home / "out" / "results.csv").open(newline="") as file:
        return [row["sam3_status"] for row in csv.DictReader(file)]


@pytest.mark.long
def test_a_picture_that_was_replaced_is_computed_again_with_its_mask(terminal: Terminal, photos: Path) -> None:
    command = ("sam3-run", "photos", *FAKE, "-o", "out")
    terminal.run(*command)
    assert statuses(terminal.home) == ["segmented"] * 3
    Image.new("RGB", (50, 50), "black").save(photos / "1.png")
    half = Image.new("RGB", (60, 60), "black")
    half.paste("white", (0, 0, 60, 30))
    half.save(photos / "2.png")

    told = terminal.run(*command)
    assert "2 images changed since they were read: --redo changed computes them again" in told.stderr
    assert statuses(terminal.home) == ["segmented"] * 3

    redone = terminal.run(*command, "--redo", "changed")
    assert "2 images to compute again" in redone.stderr
    assert redone.stdout.startswith("run photos: 2 images of 3 images in ")
    assert statuses(terminal.home) == ["segmented", "empty", "segmented"]
    assert not (terminal.home / "out" / "masks" / "person" / "1.png.png").exists()
    with Image.open(terminal.home / "out" / "masks" / "person" / "2.png.png") as mask:
        assert mask.size == (60, 60)
        assert mask.getpixel((5, 5)) == 255
        assert mask.getpixel((5, 50)) == 0
    assert "changed" not in terminal.run(*command).stderr
