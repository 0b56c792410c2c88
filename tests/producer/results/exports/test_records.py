"""Tables with nested results: what is in them, read by tools that others wrote; JSON Lines and Parquet alike."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet
import pytest
from pycocotools import mask as coco_mask
from sqlalchemy import update

from db.models import Result
from producer.results.common import ExportRequest, Summary
from producer.results.exports import jsonl, parquet
from producer.results.exports.records import Records
from producer.results.formats import Format
from tests.producer.results.conftest import LARGE, SMALL, MakeRequest
from tests.producer.results.finished import Finished

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Row = dict[str, Any]


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_parquet(path: Path) -> list[Row]:
    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


@dataclass(frozen=True)
class Table:
    """One of the formats, how it is read back, and what duckdb calls it."""

    format: Format
    read: Callable[[Path], list[Row]]
    duckdb: str

    def export(self, run: Finished, request: ExportRequest) -> tuple[Summary, list[Row]]:
        summary = self.format.write(request, run.images(request), lambda count: None)
        return summary, self.read(request.out)


@pytest.fixture(params=["jsonl", "parquet"])
def table(request: pytest.FixtureRequest) -> Table:
    if request.param == "jsonl":
        return Table(jsonl.FORMAT, read_jsonl, "read_json")
    return Table(parquet.FORMAT, read_parquet, "read_parquet")


def test_each_row_of_the_input_has_its_cells_its_state_and_its_instances(
    table: Table, run: Finished, request_for: MakeRequest, tmp_path: Path
) -> None:
    summary, rows = table.export(run, request_for("t"))
    assert summary == Summary(images=7, instances=3, files=1, path=tmp_path / "out" / "t")
    assert [row["sam3_row"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    states = ["segmented", "empty", "segmented", "failed", "pending", "duplicate", "rejected"]
    assert [row["sam3_status"] for row in rows] == states
    first, broken, again = rows[0], rows[3], rows[5]
    assert list(first)[:2] == ["path", "label"]
    assert (first["path"], first["label"]) == ("a.jpg", 'x, "y"\r')
    assert (again["path"], again["sam3_path"], again["sam3_results"]) == ("./a.jpg", "a.jpg", first["sam3_results"])
    assert (broken["sam3_error_class"], broken["sam3_error"]) == ("truncated", "ends after 100 bytes\nof 2000")
    assert (broken["sam3_width"], broken["sam3_results"]) == (None, [])
    [person, hat] = first["sam3_results"]
    assert (person["class"], hat["class"], hat["instances"]) == ("person", "Red hat", [])
    for found, score, mask in zip(person["instances"], (0.9, 0.6), (SMALL, LARGE), strict=True):
        assert found["score"] == score
        assert found["area"] == mask.sum()
        assert np.array_equal(coco_mask.decode(found["segmentation"]), mask)


def test_flat_rows_are_instances_and_a_duplicate_has_none(
    table: Table, run: Finished, request_for: MakeRequest
) -> None:
    summary, rows = table.export(run, request_for("t", flat=True))
    assert (summary.images, summary.instances) == (7, 3)
    assert [(row["sam3_row"], row["sam3_class"], row["sam3_score"]) for row in rows] == [
        (1, "person", 0.9), (1, "person", 0.6), (3, "Red hat", 0.75)
    ]  # fmt: skip
    assert np.array_equal(coco_mask.decode(rows[0]["sam3_segmentation"]), SMALL)
    assert rows[0]["label"] == 'x, "y"\r'


def test_duckdb_reads_and_counts_it(table: Table, run: Finished, request_for: MakeRequest) -> None:
    request = request_for("t")
    table.export(run, request)
    question = f"""
        SELECT r.class, len(r.instances) FROM
        (SELECT unnest(sam3_results) AS r FROM {table.duckdb}('{request.out}') WHERE sam3_status = 'segmented')
        ORDER BY ALL
    """
    assert duckdb.execute(question).fetchall() == [("Red hat", 0), ("Red hat", 1), ("person", 0), ("person", 2)]


def test_a_group_ends_before_its_masks_fill_the_memory(
    run: Finished, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for("t")
    groups: list[list[Row]] = []
    Records(request).write(run.images(request), lambda count: None, groups.append)
    monkeypatch.setattr("producer.results.exports.records.GROUP_BYTES", 1)
    Records(request).write(run.images(request), lambda count: None, groups.append)
    assert [len(group) for group in groups] == [7, 1, 2, 3, 1]
    assert groups[0] == [row for group in groups[1:] for row in group]


def test_flat_rows_tell_that_there_may_be_more(table: Table, run: Finished, request_for: MakeRequest) -> None:
    with run.sessions.begin() as session:
        session.execute(update(Result).where(Result.prompt_id == 1).values(capped=True))
    _, rows = table.export(run, request_for("t", flat=True))
    assert [(row["sam3_class"], row["sam3_capped"]) for row in rows] == [
        ("person", True), ("person", True), ("Red hat", False)
    ]  # fmt: skip


@pytest.mark.parametrize("flat", [False, True])
def test_a_file_of_ours_is_recognised_and_others_are_not(
    table: Table, run: Finished, request_for: MakeRequest, flat: bool
) -> None:
    request = request_for("t", flat=flat)
    table.export(run, request)
    written = request.out.read_bytes()
    assert table.format.is_ours(io.BytesIO(written))
    assert not table.format.is_ours(io.BytesIO(b'{"path": "a.jpg", "sam3_status": "mine"}\n'))
    for broken in (b"PAR1", b"PAR1PAR1", b"PAR1" + bytes(20) + b"PAR1", b"PAR1sam3-queue\x18" + bytes(4) + b"PAR1"):
        assert not table.format.is_ours(io.BytesIO(broken))
    assert not table.format.is_ours(io.BytesIO(written[:-1]) if table.duckdb == "read_parquet" else io.BytesIO(b"[1]"))


def test_a_table_with_a_column_more_is_somebodys_work(table: Table, run: Finished, request_for: MakeRequest) -> None:
    request = request_for("t")
    table.export(run, request)
    if table.duckdb == "read_parquet":  # pyarrow keeps our metadata
        read = pyarrow.parquet.read_table(request.out)
        pyarrow.parquet.write_table(read.append_column("mine", [["x"] * read.num_rows]), request.out)
    else:
        request.out.write_text("".join(json.dumps(row | {"mine": "x"}) + "\n" for row in read_jsonl(request.out)))
    with request.out.open("rb") as file:
        assert not table.format.is_ours(file)


def test_json_lines_are_ours_however_many_masks_the_first_one_has(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("t")
    jsonl.export_jsonl(request, run.images(request), lambda count: None)
    first = json.loads(request.out.read_text().splitlines()[0])
    first["sam3_results"] *= 1 + 5_000_000 // len(json.dumps(first["sam3_results"]))
    assert jsonl.is_ours(io.BytesIO(json.dumps(first).encode() + b"\n"))


def test_a_parquet_file_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"sam3_status": ["mine"], "sam3-queue": [1]}), path)
    with path.open("rb") as file:
        assert not parquet.is_ours(file)


def test_a_parquet_file_says_where_its_masks_come_from(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("t", min_score=0.6)
    parquet.export_parquet(request, run.images(request), lambda count: None)
    origin = json.loads(pyarrow.parquet.read_schema(request.out).metadata[b"sam3-queue"])
    assert (origin["run"], origin["model"], origin["min_score"]) == ("list", "tiny", 0.6)


def test_the_same_export_gives_the_same_bytes(table: Table, run: Finished, request_for: MakeRequest) -> None:
    one, two = request_for("one"), request_for("two")
    for request in (one, two):
        table.export(run, request)
    assert one.out.read_bytes() == two.out.read_bytes()
