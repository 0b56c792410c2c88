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

from producer.results import jsonl, parquet
from producer.results.common import ExportRequest, Summary
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
    assert (person["prompt"], hat["prompt"], hat["instances"]) == ("person", "Red hat", [])
    for found, score, mask in zip(person["instances"], (0.9, 0.6), (SMALL, LARGE), strict=True):
        assert found["score"] == score
        assert found["area"] == mask.sum()
        assert np.array_equal(coco_mask.decode(found["segmentation"]), mask)


def test_flat_rows_are_instances_and_a_duplicate_has_none(
    table: Table, run: Finished, request_for: MakeRequest
) -> None:
    summary, rows = table.export(run, request_for("t", flat=True))
    assert (summary.images, summary.instances) == (7, 3)
    assert [(row["sam3_row"], row["sam3_prompt"], row["sam3_score"]) for row in rows] == [
        (1, "person", 0.9), (1, "person", 0.6), (3, "Red hat", 0.75)
    ]  # fmt: skip
    assert np.array_equal(coco_mask.decode(rows[0]["sam3_segmentation"]), SMALL)
    assert rows[0]["label"] == 'x, "y"\r'


def test_duckdb_reads_and_counts_it(table: Table, run: Finished, request_for: MakeRequest) -> None:
    request = request_for("t")
    table.export(run, request)
    question = f"""
        SELECT r.prompt, len(r.instances) FROM
        (SELECT unnest(sam3_results) AS r FROM {table.duckdb}('{request.out}') WHERE sam3_status = 'segmented')
        ORDER BY ALL
    """
    assert duckdb.execute(question).fetchall() == [("Red hat", 0), ("Red hat", 1), ("person", 0), ("person", 2)]


@pytest.mark.parametrize("flat", [False, True])
def test_a_file_of_ours_is_recognised_and_others_are_not(
    table: Table, run: Finished, request_for: MakeRequest, flat: bool
) -> None:
    request = request_for("t", flat=flat)
    table.export(run, request)
    written = request.out.read_bytes()
    assert table.format.is_ours(io.BytesIO(written))
    assert not table.format.is_ours(io.BytesIO(b'{"path": "a.jpg", "sam3_status": "mine"}\n'))
    assert not table.format.is_ours(io.BytesIO(b"PAR1" + bytes(20) + b"PAR1"))
    assert not table.format.is_ours(io.BytesIO(written[:-1]) if table.duckdb == "read_parquet" else io.BytesIO(b"[1]"))


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
