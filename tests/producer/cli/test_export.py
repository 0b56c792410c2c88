"""`sam3-export` as it is typed; what the files hold is told by the tests of the formats."""

import csv
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from producer.cli.export import main as export
from tests.db.scenario import claim, commit, done, load, numbered, read_again, rows
from tests.producer.cli.conftest import Shell

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.usefixtures("faces"),
]


def test_a_csv_has_a_row_for_each_row_of_the_input(shell: Shell) -> None:
    told = shell(export, "faces", "--format", "csv", "-o", "out/results.csv")

    assert (told.out, told.err) == ("", "out/results.csv: 3 images, 3 instances\n")
    with (shell.home / "out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sam3_status"] for row in rows] == ["segmented", "segmented", "failed"]


def test_a_csv_names_the_masks_of_the_folder_that_they_were_exported_to(shell: Shell) -> None:
    shell(export, "faces", "--format", "png", "-o", "out/masks")
    shell(export, "faces", "--format", "csv", "--masks", "out/masks", "-o", "out/results.csv")

    with (shell.home / "out/results.csv").open(newline="") as file:
        masks = [row["person_mask"] for row in csv.DictReader(file)]
    assert masks == ["masks/person/000001.jpg.png", "masks/person/000002.jpg.png", ""]


@pytest.mark.parametrize("name", ["results.csv", "results.parquet", "coco.json", "link.csv"])
def test_the_results_of_another_run_s_folder_are_not_replaced(shell: Shell, name: str) -> None:
    shell(export, "faces", "--format", "csv", "-o", "out/results.csv")
    (shell.home / "out" / "run.yaml").write_text("source: /data/cars\noutput: out\nrun: cars\n")
    (shell.home / "out" / "link.csv").symlink_to("results.csv")
    kept = (shell.home / "out/results.csv").read_bytes()

    refused = shell(export, "faces", "--format", "jsonl", "-o", f"out/{name}", code=2).error

    assert f"out/{name} is for run cars of /data/cars: choose another -o for faces" in refused
    assert (shell.home / "out/results.csv").read_bytes() == kept
    shell(export, "faces", "--format", "jsonl", "-o", "out/faces.jsonl")
    shell(export, "faces", "--format", "jsonl", "-o", "out/results.csv", "--force")


def table(shell: Shell, name: str) -> list[str]:
    with (shell.home / name).open(newline="") as file:
        return [row["person_mask"] for row in csv.DictReader(file)]


def follow(shell: Shell, hint: str) -> None:
    """Type what follows `Next: ` literally."""
    for command in hint.removeprefix("Next: ").split(" && "):
        name, *given = shlex.split(command)
        assert name == "sam3-export"
        shell(export, *given)


@pytest.mark.parametrize(
    ("given", "blank", "filled"),
    [
        (("--masks", "nothere"), "2 masks left blank: nothere", ["nothere/person/000001.jpg.png"] * 2),
        (("--masks", "no there/x"), "2 masks left blank: no there/x", ["no there/x/person/000001.jpg.png"] * 2),
        (
            ("--masks", "masks", "--threshold", "0.7"),
            "1 mask left blank: masks",
            ["masks-0.7/person/000001.jpg.png", ""],
        ),
        (("--masks", "masks", "--min-area", "9999"), None, ["", ""]),
        (("--masks", "best", "--threshold", "0.95"), None, ["", ""]),
        (("--masks", "best", "--threshold", "0.7"), None, ["best/person/000001.jpg.png", ""]),
        (("--masks", "others"), "2 masks left blank: others", ["others-faces/person/000001.jpg.png"] * 2),
    ],
)
def test_blank_masks_end_with_1_and_the_hint_fills_them_without_spoiling_other_tables(
    shell: Shell, given: tuple[str, ...], blank: str | None, filled: list[str]
) -> None:
    shell(export, "faces", "--format", "png", "-o", "masks")
    shell(export, "faces", "--format", "csv", "--masks", "masks", "-o", "first.csv")
    shell(export, "faces", "--format", "png", "-o", "best", "--select", "best")
    run_id = load(shell.sessions, numbered(1), name="others")
    held = claim(shell.sessions, run_id)
    commit(shell.sessions, held, [done(held.images[0], 0.8)])
    shell(export, "others", "--format", "png", "-o", "others")

    told = shell(export, "faces", "--format", "csv", *given, "-o", "my table.csv", code=int(blank is not None))
    if blank is None:
        assert told.err.count("\n") == 1
    else:
        _, line, hint = told.err.splitlines()
        assert line == f"{blank} has none made from the same instances"
        assert [name for name in table(shell, "my table.csv") if name] == []
        follow(shell, hint)

    expected = [name.replace("000001", f"{number:06}") for number, name in enumerate(filled, start=1)]
    assert table(shell, "my table.csv") == [*expected, ""]
    shell(export, "faces", "--format", "csv", "--masks", "masks", "-o", "first.csv")
    assert table(shell, "first.csv") == ["masks/person/000001.jpg.png", "masks/person/000002.jpg.png", ""]


def test_a_hint_about_blank_masks_repeats_the_choice_of_instances(shell: Shell) -> None:
    shell(export, "faces", "--format", "png", "-o", "masks")
    chosen = ("--max-instances", "1", "--min-area", "2")
    told = shell(export, "faces", "--format", "csv", *chosen, "--masks", "masks", "-o", "t.csv", code=1)
    _, line, hint = told.err.splitlines()
    assert line == "1 mask left blank: masks has none made from the same instances"
    follow(shell, hint)
    assert table(shell, "t.csv") == ["masks-0.5/person/000001.jpg.png", "masks-0.5/person/000002.jpg.png", ""]


def test_a_table_without_masks_asked_for_blames_nobody(shell: Shell) -> None:
    assert shell(export, "faces", "--format", "csv", "-o", "r.csv", "--json").json["blank_masks"] == 0


def test_the_same_masks_again_are_kept(shell: Shell) -> None:
    assert shell(export, "faces", "--format", "png", "-o", "masks", "--json").json["kept"] == 0
    assert shell(export, "faces", "--format", "png", "-o", "masks", "--json").json["kept"] == 2
    assert shell(export, "faces", "--format", "png", "-o", "masks", "--threshold", "0.7", "--json").json["kept"] == 0


@pytest.mark.parametrize(("format", "told"), [("png", "Next: the same command again goes on from here\n"), ("csv", "")])
def test_ctrl_c_says_how_to_go_on_where_nothing_is_lost(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, format: str, told: str
) -> None:
    monkeypatch.setattr("producer.cli.exported.Meter.tell", lambda *given: signal.raise_signal(signal.SIGINT))
    assert shell(export, "faces", "--format", format, "-o", "out", code=130).err == told


def test_the_json_says_what_was_written_where(shell: Shell) -> None:
    assert shell(export, "faces", "--format", "coco", "-o", "coco.json", "--json").json == {
        "schema": 1,
        "run": "faces",
        "format": "coco",
        "path": "coco.json",
        "images": 2,
        "instances": 3,
        "files": 1,
        "left_out": 0,
        "kept": 0,
        "blank_masks": 0,
        "gone": 0,
        "partial": False,
    }
    assert len(json.loads(Path("coco.json").read_text())["annotations"]) == 3


def test_another_score_threshold_can_be_chosen_down_to_the_floor(shell: Shell) -> None:
    told = shell(export, "faces", "--format", "coco", "-o", "coco.json", "--threshold", "0.8", "--json")
    assert told.json["instances"] == 1

    error = shell(export, "faces", "--format", "coco", "-o", "low.json", "--threshold", "0.2", code=2).error
    assert error == "sam3: error: --threshold 0.2: the run keeps instances from 0.3 to 1; nothing below was recorded"
    assert not Path("low.json").exists()


def test_instances_can_be_chosen_by_area_and_count(shell: Shell) -> None:
    def instances(*given: str) -> int:
        told = shell(export, "faces", "--format", "coco", "-o", "coco.json", *given, "--json")
        assert len(json.loads(Path("coco.json").read_text())["annotations"]) == told.json["instances"]
        return int(told.json["instances"])

    areas = [one["area"] for one in annotations(shell)]
    assert instances("--min-area", str(max(areas))) == areas.count(max(areas))
    assert instances("--min-area", str(max(areas) + 1)) == 0
    assert instances("--max-instances", "1") == 2
    assert instances("--max-instances", "2") == 3


def annotations(shell: Shell) -> list[Any]:
    shell(export, "faces", "--format", "coco", "-o", "coco.json")
    found: list[Any] = json.loads(Path("coco.json").read_text())["annotations"]
    return found


def test_rows_that_the_source_no_longer_has_leave_with_a_count_or_stay_marked_at_the_end(shell: Shell) -> None:
    read_again(shell.sessions, 1, rows("000003.jpg", "new.jpg", "000001.jpg"))

    told = shell(export, "faces", "--format", "csv", "-o", "results.csv", "--partial")  # the new row is pending
    all_rows = shell(export, "faces", "--format", "csv", "-o", "all.csv", "--all", "--partial", "--json")

    assert told.err == (
        "results.csv: 3 images, 2 instances; 3 of 4 images so far\n"
        "1 row no longer in faces.csv left out; --all keeps them at the end\n"
    )
    assert [row["path"] for row in read("results.csv")] == ["000003.jpg", "new.jpg", "000001.jpg"]
    assert "sam3_gone" not in read("results.csv")[0]
    assert (all_rows.json["images"], all_rows.json["gone"]) == (4, 1)
    assert [(row["path"], row["sam3_status"], row["sam3_gone"]) for row in read("all.csv")] == [
        ("000003.jpg", "failed", ""),
        ("new.jpg", "pending", ""),
        ("000001.jpg", "segmented", ""),
        ("000002.jpg", "segmented", "true"),
    ]


def test_the_masks_and_instances_of_rows_that_are_gone_are_left_out_too(shell: Shell) -> None:
    read_again(shell.sessions, 1, rows("000001.jpg"))

    assert shell(export, "faces", "--format", "coco", "-o", "coco.json", "--json").json["images"] == 1
    assert shell(export, "faces", "--format", "coco", "-o", "coco.json", "--json", "--all").json["images"] == 2
    images = json.loads(Path("coco.json").read_text())["images"]
    assert [(image["file_name"], image.get("gone")) for image in images] == [("000001.jpg", None), ("000002.jpg", True)]


def test_a_source_that_was_read_again_in_part_is_told(shell: Shell) -> None:
    read_again(shell.sessions, 1, rows("000003.jpg"), ended=False)

    told = shell(export, "faces", "--format", "csv", "-o", "results.csv")

    assert "warning: faces.csv was read again in part only" in told.err
    assert [row["path"] for row in read("results.csv")] == ["000003.jpg", "000001.jpg", "000002.jpg"]


def test_a_part_of_a_source_that_has_all_rows_of_the_run_is_no_warning(shell: Shell) -> None:
    """As the same command with --limit reads it."""
    read_again(shell.sessions, 1, rows("000001.jpg", "000002.jpg", "000003.jpg"), ended=False)

    assert "warning" not in shell(export, "faces", "--format", "csv", "-o", "results.csv").err


def read(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("given", "code", "fault"),
    [
        (("nope", "--format", "csv", "-o", "x"), 4, "no run called nope; there are: faces"),
        (("faces", "--format", "pdf", "-o", "x"), 2, "'pdf' is not one of 'csv', 'coco', "),
        (
            ("faces", "--format", "coco", "-o", "x", "--masks", "m"),
            2,
            "--masks m: only --format csv has columns for masks",
        ),
        (
            ("faces", "--format", "csv", "-o", "x", "--select", "best"),
            2,
            "--select best: only --format png or cutout has masks of several instances",
        ),
        (
            ("faces", "--format", "csv", "-o", "x", "--flat"),
            2,
            "--flat: only --format jsonl or parquet has rows of instances",
        ),
        (("faces", "--format", "csv"), 2, "Missing option '-o' / '--output'"),
        (
            ("faces", "--format", "png", "-o", "-"),
            2,
            "-o -: only one file, csv, coco, coco-results, jsonl, parquet or label-studio without --json",
        ),
        (
            ("faces", "--format", "csv", "-o", "-", "--json"),
            2,
            "-o -: only one file, csv, coco, coco-results, jsonl, parquet or label-studio without --json",
        ),
        (("faces", "--format", "csv", "-o", "."), 2, ". is a folder: name a file to write"),
        (("faces", "--format", "csv", "-o", "/proc/x.csv"), 2, "/proc/x.csv: cannot write"),
        (
            ("faces", "--format", "coco", "-o", "x", "--threshold", "nan"),
            2,
            "'nan': give a number from 0 to 1, or CLASS",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_line(shell: Shell, given: tuple[str, ...], code: int, fault: str) -> None:
    assert fault in shell(export, *given, code=code).error


def test_a_format_whose_libraries_are_missing_says_what_to_install(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("producer.results.exports.png", "producer.results.exports.pixels.drawing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)

    error = shell(export, "faces", "--format", "png", "-o", "masks", code=2).error

    assert error == "sam3: error: png export needs numpy: pip install 'sam3-queue[export]'"


@pytest.mark.parametrize("kind", ["csv", "coco"])
def test_one_file_goes_to_standard_output_just_as_it_would_be_written(shell: Shell, kind: str) -> None:
    shell(export, "faces", "--format", kind, "-o", "file")
    printed = shell(export, "faces", "--format", kind, "-o", "-")

    assert printed.out == (shell.home / "file").read_text()
    assert not (shell.home / "-").exists()
