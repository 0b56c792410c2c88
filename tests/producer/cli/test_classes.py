"""Classes as they are typed: --prompt text=class, --classes FILE, and a prompt column; and thresholds by class."""

import csv
import json
import shlex
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export
from producer.cli.status import main as status
from tests.db import scenario
from tests.producer.cli.conftest import Shell

CATEGORIES = [{"id": 5, "name": "container", "color": [1, 2, 3]}, {"id": 2, "name": "person", "supercategory": "x"}]
GIVEN = ("--csv", "faces.csv", "--prompt", "shipping container=container", "--prompt", "cargo box=container")


@pytest.fixture
def listed(shell: Shell) -> Path:
    """A CSV whose second row names prompts itself, and a COCO file."""
    Path("faces.csv").write_text("path,words\na.jpg,\nb.jpg,man=person|cargo box=container\n")
    Path("coco.json").write_text(json.dumps({"images": [], "categories": CATEGORIES}))
    return shell.home


@pytest.mark.usefixtures("broker", "listed")
def test_a_run_keeps_its_classes_and_refuses_others_once_it_has_results(shell: Shell) -> None:
    given = (*GIVEN, "--prompt-column", "words", "--classes", "coco.json")
    shell(enqueue, *given)
    assert "0 new" in shell(enqueue, *given).out
    scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, 1, 1), 0.9, 0.4)

    assert "0 new" in shell(enqueue, *given).out
    error = shell(enqueue, *GIVEN, "--prompt-column", "words", code=2).error
    assert (
        "run faces has results with other settings: classes 2 person, 5 container [1, 2, 3] there, none here" in error
    )
    other = [text.replace("cargo box=container", "cargo box=person") for text in given]
    error = shell(enqueue, *other, code=2).error
    assert "prompt shipping container=container, cargo box=container there" in error

    shell(export, "faces", "--format", "coco", "-o", "out.json")
    coco = json.loads(Path("out.json").read_text())
    assert [(one["id"], one["name"]) for one in coco["categories"]] == [(2, "person"), (5, "container")]
    assert [one["category_id"] for one in coco["annotations"]] == [5, 5, 2, 5]


@pytest.mark.usefixtures("broker", "listed")
def test_a_run_without_results_takes_other_classes(shell: Shell) -> None:
    shell(enqueue, *GIVEN)
    shell(enqueue, *GIVEN[:-1], "cargo box=box", "--classes", "coco.json", code=2)

    told = shell(enqueue, *GIVEN, "--classes", "coco.json").err

    assert "had no results yet: classes none -> 2 person, 5 container [1, 2, 3]" in told


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (("--prompt", "a=b=c"), "--prompt 'a=b=c': more than one =; write text=class, and == for a sign = in a text"),
        (("--prompt", "=b"), "--prompt '=b': = without a text before it and a class behind it"),
        (("--prompt", "man=persn", "--classes", "coco.json"), "coco.json has no category persn; name one of them"),
        (("--prompt", "person", "--classes", "nope.json"), "--classes nope.json: not found; check the path"),
        (("--prompt", "person", "--classes", "faces.csv"), "--classes faces.csv is no JSON"),
    ],
)
def test_a_class_that_cannot_be_is_one_line(shell: Shell, given: tuple[str, ...], fault: str) -> None:
    assert fault in shell(enqueue, "--csv", "faces.csv", *given, "--dry-run", code=2).error


@pytest.mark.usefixtures("broker", "listed")
def test_a_row_with_a_bad_class_is_rejected_and_the_others_go_on(shell: Shell) -> None:
    Path("faces.csv").write_text("path,words\na.jpg,x==y\nb.jpg,a=b=c\n")
    told = shell(enqueue, "--csv", "faces.csv", "--prompt-column", "words", "--prompt", "person", "--dry-run", code=1)

    assert "rejected: faces.csv:3: more than one =; write text=class" in told.err


@pytest.mark.parametrize("kind", ["png", "cutout"])
def test_two_rows_of_an_image_do_not_overwrite_each_others_mask_of_a_class(shell: Shell, kind: str) -> None:
    rows = [NewRow("a.jpg", prompts=(f"{who}=person",)) for who in ("man", "woman")]
    scenario.work_off(shell.sessions, scenario.load(shell.sessions, rows), 0.9)

    error = shell(export, "faces", "--format", kind, "-o", "out", code=2).error

    assert f"a.jpg is in two rows with different prompts or boxes, and {kind} would have one file for both: " in error
    assert not Path("out").exists()


@pytest.fixture
def computed(shell: Shell) -> Shell:
    """Three images with two prompts each: 0.9, 0.45; and one with 0.45 only."""
    run_id = scenario.load(shell.sessions, scenario.numbered(4), prompts=("man=person", "hat"))
    held = scenario.claim(shell.sessions, run_id)
    outcomes = [scenario.done(image, 0.9, 0.45) for image in held.images[:3]]
    scenario.commit(shell.sessions, held, [*outcomes, scenario.done(held.images[3], 0.45)])
    return shell


def test_status_says_what_other_thresholds_would_find(computed: Shell) -> None:
    told = computed(status, "faces", "--at", "0.5", "--at", "person=0.95,hat=0.4")

    lines = [line.split() for line in told.out.splitlines()]
    assert lines == [
        ["at", "class", "instances", "images"],
        ["0.5", "person", "3", "3"],
        ["hat", "3", "3"],
        ["(all)", "6", "3"],
        ["(empty)", "1"],
        ["0.5", "hat=0.4", "person=0.95", "person", "0", "0"],
        ["hat", "7", "4"],
        ["(all)", "7", "4"],
        ["(empty)", "0"],
    ]
    facts = computed(status, "faces", "--at", "hat=0.4", "--max-instances", "1", "--json").json
    assert facts["run"] == "faces"
    assert facts["at"] == [
        {
            "threshold": 0.5,
            "min_area": 0,
            "max_instances": 1,
            "class_thresholds": {"hat": 0.4},
            "images": 4,
            "empty": 0,
            "instances": 7,
            "classes": [
                {"name": "person", "instances": 3, "images": 3},
                {"name": "hat", "instances": 4, "images": 4},
            ],
        }
    ]


def test_the_hint_of_status_exports_what_it_has_counted(computed: Shell) -> None:
    told = computed(status, "faces", "--at", "person=0.4,hat=0.95", "--max-instances", "1")
    command, *words = shlex.split(told.err.splitlines()[-1].removeprefix("Next: "))
    assert command == "sam3-export"

    computed(export, *words)

    with Path(words[-1]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["person_instances"], row["hat_instances"]) for row in rows] == [("1", "0")] * 4


def test_the_hint_for_a_run_that_goes_on_exports_what_is_there(shell: Shell) -> None:
    run_id = scenario.load(shell.sessions, scenario.numbered(5), prompts=("person",))
    scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, run_id), 0.4)

    told = shell(status, "faces", "--at", "0.4")
    words = shlex.split(told.err.splitlines()[-1].removeprefix("Next: sam3-export "))
    shell(export, *words)

    with Path(words[-1]).open(newline="") as file:
        assert [row["person_instances"] for row in csv.DictReader(file)] == ["1"] * 4 + [""]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (("faces", "--at", "0.1"), "--at 0.1: the run keeps instances from 0.3 to 1; nothing below was recorded"),
        (("faces", "--at", "man=0.5"), "--at man=0.5: the run has no class man; it has person, hat"),
        (("faces", "--at", "0.5", "--watch"), "--at: give one RUN, without --watch and --wait"),
        (("--at", "0.5"), "--at: give one RUN, without --watch and --wait"),
        (("faces", "--nms", "0.5"), "--nms: it goes with --at, such as --at 0.5"),
        (("faces", "--at", "x"), "'x': give a number from 0 to 1, or CLASS=NUMBER, such as person=0.7"),
        (("faces", "--at", "0.5", "--nms-across"), "--nms-across: it says how nms or contain compares"),
    ],
)
def test_what_cannot_be_counted_is_one_line(computed: Shell, given: tuple[str, ...], fault: str) -> None:
    assert fault in computed(status, *given, code=2).error


def test_a_variable_that_is_meant_for_exports_does_not_disturb_the_status(
    computed: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM3_MAX_INSTANCES", "1")

    assert "faces" in computed(status, "faces").out
    assert computed(status, "faces", "--at", "0.4", "--json").json["at"][0]["instances"] == 8


@pytest.mark.parametrize(("format", "name"), [("coco", "again.json"), ("parquet", "again.parquet")])
def test_the_command_that_a_file_names_writes_the_same_file_again(
    computed: Shell, monkeypatch: pytest.MonkeyPatch, format: str, name: str
) -> None:
    choice = ("--threshold", "hat=0.95", "--threshold", "0.4", "--nms", "0.05", "--iou", "box", "--only", "segmented")
    monkeypatch.setenv("SAM3_MAX_INSTANCES", "1")
    computed(export, "faces", "--format", format, "-o", f"first-{name}", *choice, "--jobs", "2", "--force")
    monkeypatch.delenv("SAM3_MAX_INSTANCES")

    first = Path(f"first-{name}").read_bytes()
    info = json.loads(first)["info"] if format == "coco" else json.loads(table_info(name))
    program, *words = shlex.split(info["command"])
    assert (program, "--jobs" in words, "-o" in words) == ("sam3-export", False, False)
    computed(export, *words, "-o", name)
    assert Path(name).read_bytes() == first


def table_info(name: str) -> bytes:
    import pyarrow.parquet as pq

    return bytes(pq.read_schema(f"first-{name}").metadata[b"sam3-queue"])


def test_an_export_takes_thresholds_by_class_and_says_so(computed: Shell) -> None:
    choice = ("--threshold", "hat=0.95", "--threshold", "0.4", "--nms", "0.8", "--iou", "box")
    computed(export, "faces", "--format", "coco", "-o", "coco.json", *choice)

    info = json.loads(Path("coco.json").read_text())["info"]
    told = {name: info[name] for name in ("min_score", "class_thresholds", "nms", "contain", "nms_across", "iou")}
    assert told == {
        "min_score": 0.4, "class_thresholds": {"hat": 0.95}, "nms": 0.8, "contain": None, "nms_across": False,
        "iou": "box",
    }  # fmt: skip
    wrong = ("--threshold", "0.5", "--threshold", "0.6")
    assert (
        "--threshold 0.6: two thresholds for all classes; give one"
        in computed(export, "faces", "--format", "csv", "-o", "r.csv", *wrong, code=2).error
    )
