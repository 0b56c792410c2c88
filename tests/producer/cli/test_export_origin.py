"""Every export says how it was made: in its own file, in its folder's record, or in a second file beside it."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from producer.cli.export import main as export
from producer.results.format_names import MODULES
from producer.results.formats import format_named
from tests.buckets import Bucket
from tests.producer.cli.conftest import Shell

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.usefixtures("faces"),
]

FACTS = {
    *("run", "model", "revision", "weights_sha256", "dtype", "versions", "threshold", "mask_threshold"),
    *("score_floor", "min_score", "command"),
}


def origin(format: str, out: Path) -> Any:
    """What an export says about how it was made."""
    if format_named(format).origin_beside:
        return json.loads(beside(out).read_bytes())
    if format == "coco":
        return json.loads(out.read_bytes())["info"]
    if format == "parquet":
        return json.loads(parquet.read_schema(out).metadata[b"sam3-queue"])
    if format == "yolo-seg":
        [comment] = [line for line in (out / "data.yaml").read_text().splitlines() if line.startswith("# {")]
        return json.loads(comment.removeprefix("# "))
    record = ".sam3-masks.json" if format == "png" else ".sam3-export.json"
    return json.loads((out / record).read_bytes())["origin"]


def beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.sam3-export")


@pytest.mark.parametrize("format", MODULES)
def test_an_export_in_any_format_says_how_it_was_made(shell: Shell, format: str) -> None:
    shell(export, "faces", "--format", format, "--threshold", "0.7", "-o", "out")
    facts = origin(format, shell.home / "out")
    assert facts.keys() >= FACTS
    assert (facts["run"], facts["threshold"], facts["min_score"]) == ("faces", 0.5, 0.7)
    again = shlex.split(facts["command"])[1:]
    shell(export, *again, "-o", "again")
    assert origin(format, shell.home / "again") == facts | ({"file": "again"} if "file" in facts else {})


@pytest.mark.parametrize("format", ["csv", "coco-results"])
def test_the_file_beside_it_names_classes_and_counts(shell: Shell, format: str) -> None:
    shell(export, "faces", "--format", format, "-o", "out.any")
    facts = origin(format, shell.home / "out.any")
    assert (facts["file"], facts["format"], facts["instances"]) == ("out.any", format, 3)
    assert [(one["id"], one["name"], one["slug"]) for one in facts["categories"]] == [(1, "person", "person")]


def test_globs_of_data_miss_it(shell: Shell) -> None:
    shell(export, "faces", "--format", "coco-results", "-o", "out.json")
    assert [path.name for path in shell.home.glob("*.json")] == ["out.json"]
    assert [name for name in os.listdir(shell.home) if not name.startswith(".")].count("out.json") == 1


def test_a_file_of_somebody_else_beside_it_is_kept_and_nothing_is_written(shell: Shell) -> None:
    theirs = beside(shell.home / "out.csv")
    theirs.write_text("my notes")
    refused = shell(export, "faces", "--format", "csv", "-o", "out.csv", code=2).error
    assert f"{theirs} was not made by an export of ours, so it is not replaced" in refused
    assert theirs.read_text() == "my notes"
    assert not (shell.home / "out.csv").exists()
    shell(export, "faces", "--format", "csv", "-o", "out.csv", "--force")
    assert origin("csv", shell.home / "out.csv")["run"] == "faces"


def test_nothing_is_written_through_a_link_beside_it(shell: Shell) -> None:
    (shell.home / "theirs").write_text("")
    beside(shell.home / "out.csv").symlink_to("theirs")
    refused = shell(export, "faces", "--format", "csv", "-o", "out.csv", code=2).error
    assert "is a link to somewhere else" in refused
    assert (shell.home / "theirs").read_text() == ""


def test_it_lies_where_a_link_to_the_file_leads(shell: Shell) -> None:
    (shell.home / "far").mkdir()
    (shell.home / "latest.csv").symlink_to("far/1.csv")
    shell(export, "faces", "--format", "csv", "-o", "latest.csv")
    assert origin("csv", shell.home / "far/1.csv")["file"] == "1.csv"
    assert not beside(shell.home / "latest.csv").exists()


def test_an_export_that_tells_its_origin_itself_removes_what_an_earlier_one_left(shell: Shell) -> None:
    for format, left in (("jsonl", True), ("coco", False), ("coco-results", True), ("parquet", False)):
        shell(export, "faces", "--format", format, "-o", "out")
        assert beside(shell.home / "out").exists() == left
    beside(shell.home / "out").write_text("my notes")
    shell(export, "faces", "--format", "coco", "-o", "out")
    assert beside(shell.home / "out").read_text() == "my notes"


def test_standard_output_has_none(shell: Shell) -> None:
    before = sorted(os.listdir(shell.home))
    assert "sam3_status" in shell(export, "faces", "--format", "csv", "-o", "-").out
    assert sorted(os.listdir(shell.home)) == before


@pytest.mark.parametrize("name", ["y" * 251 + ".csv", os.fsdecode(b"\xff.csv")], ids=["long", "no text"])
def test_any_name_of_a_file_may_have_one(shell: Shell, name: str) -> None:
    shell(export, "faces", "--format", "csv", "-o", name)
    [found] = shell.home.glob(".*.sam3-export")
    assert json.loads(found.read_bytes())["file"] == name


def test_bytes_that_are_no_text_are_told_as_the_shell_takes_them(shell: Shell) -> None:
    """In names of files, which may have any; a flag that is written into results may not."""
    rows = os.fsdecode(b"r'\xff")
    Path(shell.home, rows).write_text("1\n")
    for format in ("coco", "parquet", "png", "webdataset", "csv"):
        shell(export, "faces", "--format", format, "--rows", rows, "-o", format)
        assert origin(format, shell.home / format)["command"].endswith(r" --rows $'r\'\xff'")
    for format, flag in (("png", "--name"), ("label-studio", "--image-url"), ("cutout", "--background")):
        refused = shell(export, "faces", "--format", format, flag, "{stem}\udcff.png", "-o", "x", code=2).error
        assert f"{flag}: it has bytes that are no text in UTF-8" in refused


def test_what_cannot_be_written_is_told_of_the_file_that_was_named(shell: Shell) -> None:
    (shell.home / "a").write_text("")
    refused = shell(export, "faces", "--format", "csv", "-o", "a/b.csv", code=2).error
    assert "a/b.csv: cannot write: Not a directory" in refused


def test_an_object_in_a_bucket_has_one_as_well(shell: Shell, bucket: Bucket) -> None:
    for place, key in ((bucket.url, ".a.csv.sam3-export"), (f"{bucket.url}/x/y", "x/y/.a.csv.sam3-export")):
        for _ in range(2):
            shell(export, "faces", "--format", "csv", "-o", f"{place}/a.csv")
        assert json.loads(bucket.get(key) or b"").items() >= {"file": "a.csv", "run": "faces"}.items()
        assert bucket.asked["PUT", key] == 1  # the second says the same
    bucket.put(".b.csv.sam3-export", b"my notes")
    refused = shell(export, "faces", "--format", "csv", "-o", f"{bucket.url}/b.csv", code=2).error
    assert f"{bucket.url}/.b.csv.sam3-export was not made by an export of ours" in refused
    assert bucket.get("b.csv") is None
