"""Cells with types in the database: what goes in comes out, also after an edit. On SQLite and on PostgreSQL."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from db.intake import find_run
from db.session import Sessions, reading
from db.views.results import exported_images
from producer.runs.load import Recorded, record
from producer.runs.request import RunRequest
from producer.sources.kinds import open_source
from producer.sources.source import ReadOptions
from tests.db import scenario

REQUEST = RunRequest("faces", ("person",), scenario.FROZEN, chunk_size=4)


def load(sessions: Sessions, path: Path, prompt_column: str | None = None) -> Recorded:
    source = open_source(path, ReadOptions(prompt_column=prompt_column))
    return record(sessions, source, REQUEST, lambda done, total: None)


def cells(sessions: Sessions) -> list[Any]:
    return [(image.path, image.cells, image.state) for image in exported_images(sessions, 1, 0.5)]


def types(sessions: Sessions) -> Any:
    with reading(sessions) as session:
        known = find_run(session, "faces")
    assert known is not None
    assert known.source.types is None or tuple(known.source.types) == known.source.columns
    return known.source.types


def test_values_of_json_come_out_as_they_went_in_and_types_follow_an_edit(sessions: Sessions, tmp_path: Path) -> None:
    faces = tmp_path / "faces.jsonl"
    rows = [
        {"path": "a.jpg", "n": 2**63, "x": 0.1, "ok": False, "none": None, "list": [1, {"ü": "\u2028\t'"}]},
        {"path": "b.jpg", "n": -1, "x": 1e300, "text": '\\"quoted\\"'},
        {"path": {"a": 1}, "n": 0},
    ]
    faces.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert load(sessions, faces).new_rows == 3
    assert cells(sessions) == [
        ("a.jpg", {key: cell for key, cell in rows[0].items() if key != "path"}, "pending"),
        ("b.jpg", {key: cell for key, cell in rows[1].items() if key != "path"}, "pending"),
        ('{"a":1}', {"path": {"a": 1}, "n": 0}, "rejected"),
    ]
    assert types(sessions)["n"] == "json"

    faces.write_text('{"path": "c.jpg", "n": 5}\n{"path": "b.jpg", "n": 4}\n')
    os.utime(faces, ns=(10**18, 10**18))
    assert load(sessions, faces) == Recorded(1, 1, 2)
    assert cells(sessions) == [("c.jpg", {"n": 5}, "pending"), ("b.jpg", {"n": 4}, "pending")]
    assert types(sessions) == {"path": "string", "n": "int64"}


def test_values_of_parquet_and_lists_of_prompts_come_out_as_they_went_in(sessions: Sessions, tmp_path: Path) -> None:
    table = pa.table(
        {
            "path": ["a.jpg", "a.jpg", "b.jpg", "a.jpg"],
            "words": [["cat", "dog"], ["cat"], None, ["cat", "dog"]],
            "x": [float("nan"), float("inf"), None, 1.0],
        }
    )
    pq.write_table(table, tmp_path / "faces.parquet")
    load(sessions, tmp_path / "faces.parquet", "words")

    assert [state for _, _, state in cells(sessions)] == ["pending", "pending", "pending", "duplicate"]
    assert str([found["x"] for _, found, _ in cells(sessions)]) == "[nan, inf, None, 1.0]"
    assert [found["words"] for _, found, _ in cells(sessions)] == table["words"].to_pylist()
    asked = [image.prompts for image in scenario.images(sessions, 1)]
    assert [prompts and len(prompts) for prompts in asked] == [2, 1, None, 2]
