"""`sam3-export` of some rows only: of a kind, or those that a file lists."""

import csv
import json
import os
import shlex
from pathlib import Path

import pytest

from db.outcomes import ImageDone
from db.values import FoundInstance, PromptResult
from producer.cli.export import main as export
from tests.db.scenario import claim, commit, done, failed, load, read_again, rows
from tests.producer.cli.conftest import Shell

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NAMES = ("1.jpg", "2.jpg", "3.jpg", "4.jpg")


@pytest.fixture(autouse=True)
def faces(shell: Shell) -> None:
    """One image of each kind: segmented, capped, empty and failed."""
    held = claim(shell.sessions, load(shell.sessions, rows(*NAMES)))
    one, two, three, four = held.images
    found = FoundInstance(0.9, (1.0, 2.0, 3.0, 4.0), 4, b"12")
    capped = ImageDone(two.id, 640, 480, tuple(PromptResult(id, 0.9, True, (found,)) for id in two.prompt_ids))
    commit(shell.sessions, held, [done(one, 0.9), capped, done(three), failed(four)])


def table(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["segmented"], ["1.jpg", "2.jpg"]),
        (["empty"], ["3.jpg"]),
        (["failed"], ["4.jpg"]),
        (["capped"], ["2.jpg"]),
        (["failed", "capped"], ["2.jpg", "4.jpg"]),
    ],
)
def test_rows_of_a_kind(shell: Shell, kinds: list[str], expected: list[str]) -> None:
    only = [word for kind in kinds for word in ("--only", kind)]
    shell(export, "faces", "--format", "csv", *only, "-o", "r.csv")
    assert table(shell.home / "r.csv") == expected


def test_rows_of_a_file_come_in_the_order_of_the_source(shell: Shell) -> None:
    (shell.home / "rows.txt").write_text(f"./3.jpg\r\n\n2\n{shell.home.parent}/x/../elsewhere\n")
    refused = shell(export, "faces", "--format", "csv", "--rows", "rows.txt", "-o", "r.csv", code=2).error
    assert "--rows rows.txt, line 4: the run has no image" in refused
    assert not (shell.home / "r.csv").exists()

    (shell.home / "rows.txt").write_text("./3.jpg\r\n\n2\n3.jpg\n")
    told = shell(export, "faces", "--format", "csv", "--rows", "rows.txt", "-o", "r.csv").err
    assert told == "r.csv: 2 images, 1 instance\n"
    assert table(shell.home / "r.csv") == ["2.jpg", "3.jpg"]

    shell(export, "faces", "--format", "coco", "--rows", "rows.txt", "--only", "empty", "-o", "c.json")
    coco = json.loads((shell.home / "c.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["3.jpg"]
    assert (coco["info"]["only"], coco["info"]["rows_chosen"]) == (["empty"], 2)


def test_rows_of_an_edited_source_come_in_its_order(shell: Shell) -> None:
    with shell.sessions() as session:
        from db.runs import run_id_of

        run_id = run_id_of(session, "faces")
    assert run_id is not None
    read_again(shell.sessions, run_id, rows("4.jpg", "2.jpg", "1.jpg"))
    (shell.home / "rows.txt").write_text("1.jpg\n2.jpg\n4.jpg\n3.jpg\n")
    shell(export, "faces", "--format", "csv", "--rows", "rows.txt", "-o", "r.csv")
    assert table(shell.home / "r.csv") == ["4.jpg", "2.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("5\n", "line 1: the run has rows from 1 to 4, none 5"),
        ("1.jpg\n0\n", "line 2: the run has rows from 1 to 4"),
        ("9" * 5000, "line 1: the run has rows from 1 to 4, none 999"),
        ("1.jpg\n\udcff.jpg\n", r"line 2: the run has no image '\xff.jpg'"),
        ("1.jpg\nx\0.jpg\n", r"line 2: the run has no image 'x\x00.jpg'"),
        ("x" * 5000, "line 1: the run has no image 'xxx"),
        ("\n\n", "names no row"),
        (None, "No such file"),
    ],
)
def test_a_file_that_names_no_rows_is_refused_before_anything_is_written(
    shell: Shell, content: str | None, said: str
) -> None:
    if content is not None:
        (shell.home / "rows.txt").write_bytes(os.fsencode(content))
    error = shell(export, "faces", "--format", "csv", "--rows", "rows.txt", "-o", "r.csv", code=2).error
    assert said in error
    assert len(error) < 400
    assert not (shell.home / "r.csv").exists()


def test_a_hint_about_blank_masks_repeats_the_choice_of_rows(shell: Shell) -> None:
    shell(export, "faces", "--format", "png", "--only", "failed", "-o", "masks")
    (shell.home / "rows.txt").write_text("1.jpg\n3.jpg\n")
    chosen = ("--rows", "rows.txt", "--only", "segmented")
    told = shell(export, "faces", "--format", "csv", *chosen, "--masks", "masks", "-o", "t.csv", code=1).err
    for command in told.splitlines()[-1].removeprefix("Next: ").split(" && "):
        shell(export, *shlex.split(command)[1:])
    with (shell.home / "t.csv").open(newline="") as file:
        assert [(row["path"], row["person_mask"]) for row in csv.DictReader(file)] == [
            ("1.jpg", "masks/person/1.jpg.png")
        ]


def test_cells_like_formulas_are_made_safe_if_asked_for(shell: Shell) -> None:
    names = ("=1+2.jpg", "@x.jpg", "-3.jpg", "\uff1dx.jpg", "a=b.jpg")
    held = claim(shell.sessions, load(shell.sessions, rows(*names), name="odd"))
    commit(shell.sessions, held, [done(image) for image in held.images])
    held = claim(shell.sessions, held.run_id)
    commit(shell.sessions, held, [done(image) for image in held.images])
    shell(export, "odd", "--format", "csv", "-o", "as-it-is.csv")
    assert table(shell.home / "as-it-is.csv") == list(names)
    for _ in range(2):
        shell(export, "odd", "--format", "csv", "--spreadsheet-safe", "-o", "safe.csv")
    assert table(shell.home / "safe.csv") == [f"'{name}" for name in names[:4]] + ["a=b.jpg"]
    refused = shell(export, "odd", "--format", "jsonl", "--spreadsheet-safe", "-o", "x", code=2).error
    assert "--spreadsheet-safe: only --format csv has cells" in refused
