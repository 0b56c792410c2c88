"""Parquet files written by pyarrow and by DuckDB: types are kept and come back, growth and damage are known."""

import datetime as dt
import gzip
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from db.columns import to_json
from db.intake import NewRow
from producer.sources.kinds import open_source
from producer.sources.parquet import arrow_types
from producer.sources.parquet.parquet_part import ParquetPart
from producer.sources.parquet.parquet_source import ParquetSource
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions
from workers.errors import UsageError


def write(table: pa.Table | dict[str, Any], group: int = 1000, name: str = "a.parquet") -> Path:
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), name, row_group_size=group)
    return Path(name)


def opened(path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> ParquetSource:
    source = open_source(path, options)
    assert isinstance(source, ParquetSource)
    return source


def paths(count: int) -> list[str]:
    return [f"{number:05}.jpg" for number in range(count)]


UTC = dt.UTC
WHEN = dt.datetime(2024, 5, 6, 7, 8, 9, 123456)
COLUMNS = {
    "int8": pa.array([-128, None], pa.int8()),
    "uint64": pa.array([2**64 - 1, None], pa.uint64()),
    "float": pa.array([0.1, None], pa.float32()),
    "double": pa.array([0.1, float("nan")]),
    "half": pa.array([1.5, None], pa.float32()).cast(pa.float16()),
    "bool": pa.array([True, None]),
    "text": pa.array(["ü\n\x1b", None]),
    "large": pa.array(["x", None], pa.large_string()),
    "view": pa.array(["x", None], pa.string_view()),
    "date": pa.array([WHEN.date(), None]),
    "time": pa.array([WHEN.time(), None], pa.time64("us")),
    "seconds": pa.array([dt.time(1, 2, 3), None], pa.time32("s")),
    "when": pa.array([WHEN, None], pa.timestamp("us")),
    "in UTC": pa.array([WHEN.replace(tzinfo=UTC), None], pa.timestamp("ms", "UTC")),
    "in Berlin": pa.array([WHEN.replace(tzinfo=UTC), None], pa.timestamp("ns", "Europe/Berlin")),
    "took": pa.array([dt.timedelta(seconds=1.5), None], pa.duration("ms")),
    "price": pa.array([Decimal("12.30"), None], pa.decimal128(10, 2)),
    "tags": pa.array([["a", None], []], pa.list_(pa.string())),
    "box": pa.array([[1, 2], None], pa.list_(pa.float32(), 2)),
    "meta": pa.array([{"w": 1, "tags": ["x"]}, None]),
    "nothing": pa.array([None, None]),
}


def test_every_type_is_kept_as_json_has_it_and_comes_back_as_it_was() -> None:
    table = pa.table({"path": paths(2), **COLUMNS})
    source = opened(write(table))
    assert source.survey().rows == 2
    rows = list(source.rows())
    assert [row.path for row in rows] == paths(2)
    assert source.columns.types is not None
    there = pq.read_table("a.parquet")  # seconds have become milliseconds in the file
    for name in COLUMNS:
        column = there[name].combine_chunks()
        cells = [(row.cells or {})[name] for row in rows]
        assert to_json(cells), "it can be stored"
        back = arrow_types.column_of(cells, source.columns.types[name])
        assert back.equals(column) or name == "double", name
    assert str((rows[1].cells or {})["double"]) == "nan"
    assert [(rows[0].cells or {})[name] for name in ("when", "price", "took", "date")] == [
        *("2024-05-06 07:08:09.123456", "12.30", 1500, "2024-05-06")
    ]


def test_a_dictionary_becomes_its_values_and_what_json_has_not_becomes_json() -> None:
    table = pa.table(
        {
            "path": pa.array(paths(2)).dictionary_encode(),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "days": pa.array([[WHEN.date()], None]),
            "kind": pa.array(["a\0", "b"]).dictionary_encode(),
        }
    )
    source = opened(write(table))
    assert source.columns.types == {"path": "string", "map": "json", "days": "json", "kind": "string"}
    assert [row.cells for row in source.rows()] == [
        {"map": [["k", 1]], "days": ["2024-05-06"], "kind": "a\\x00"},
        {"map": None, "days": None, "kind": "b"},
    ]
    assert [row.rejected is None for row in source.rows()] == [False, True], "one of them has a NUL"


def test_columns_of_bytes_do_not_make_batches_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.sources.parquet.parquet_part.BYTES_AT_ONCE", 2000)
    source = opened(write({"path": paths(90), "image": [bytes(1000) + b"%d" % number for number in range(90)]}))
    (part,) = source._parts
    with part.opened() as parquet:
        assert len(next(part.batches(parquet, 0, ["path"], ["path"]))[0]) > 40
    assert len(list(source.rows())) == 90


def test_columns_of_bytes_are_left_out_and_told() -> None:
    source = opened(write({"path": paths(1), "image": [{"bytes": b"x", "path": "x"}], "hash": [b"y"], "n": [1]}))
    assert source.told == "without 'image', 'hash': bytes are not kept"
    assert list(source.rows()) == [NewRow("00000.jpg", {"n": 1})]


def test_bad_rows_are_rejected_with_their_number() -> None:
    bad = pa.array([b"a.jpg", None, b"", b"caf\xe9.jpg", b"gopher://x"], pa.binary()).view(pa.string())
    source = opened(write({"path": bad, "n": [1, 2, 3, 4, 5]}, group=2))
    assert source.survey().rows == 5
    good, *rejected = source.rows()
    assert good == NewRow("a.jpg", {"n": 1})
    assert [row.rejected[1] for row in rejected if row.rejected][:3] == [
        "a.parquet: row 2: the path is null; give it as text",
        "a.parquet: row 3: empty path; give the image's path, or remove the row",
        "a.parquet: row 4: column 'path' is not valid UTF-8; correct the cell",
    ]
    assert rejected[2].path == "caf\\xe9.jpg"
    assert rejected[3].rejected is not None


def test_skip_goes_on_where_an_earlier_reading_stopped_and_leaves_row_groups_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producer.sources.parquet.parquet_part.ROWS_AT_ONCE", 7)
    source = opened(write({"path": paths(50)}, group=20))
    everything = list(source.rows())
    assert [row.path for row in everything] == paths(50)
    read: list[int] = []
    batches = ParquetPart.batches

    def noted(part: ParquetPart, parquet: Any, group: int, *columns: Any) -> Iterator[list[Any]]:
        read.append(group)
        return batches(part, parquet, group, *columns)

    monkeypatch.setattr(ParquetPart, "batches", noted)
    for skip, groups in ((0, [0, 1, 2]), (1, [0, 1, 2]), (8, [0, 1, 2]), (20, [1, 2]), (41, [2]), (50, []), (99, [])):
        read.clear()
        assert list(source.rows(skip)) == everything[skip:]
        assert read == groups


def test_a_file_with_more_row_groups_continues_and_one_with_others_or_fewer_does_not() -> None:
    table = pa.table({"path": paths(60), "n": range(60)})
    known = opened(write(table.slice(0, 40), group=20)).survey()
    assert not known.continues

    def continues(after: pa.Table, group: int = 20) -> bool:
        return opened(write(after, group)).survey(known.size, known.sha256).continues

    assert continues(table)
    assert continues(table.slice(0, 40))
    assert not continues(table.slice(0, 20)), "a row group has vanished"
    assert not continues(table.slice(20))
    assert not continues(table, group=30), "it may hold the same rows, but that is not known without reading them"
    assert not continues(table.append_column("m", [range(60)]))
    assert not continues(table.rename_columns(["path", "k"]))


def test_an_unchanged_file_is_known_without_reading_it() -> None:
    source = opened(write({"path": paths(3)}))
    known = source.survey()
    assert known.sha256 is not None
    assert source.is_still(known.size, known.mtime_ns, known.sha256)
    assert not source.is_still(known.size, known.mtime_ns, 64 * "0")
    assert not source.is_still(known.size + 1, known.mtime_ns, known.sha256)


@pytest.mark.parametrize("cut", [3, 100, -1])
def test_a_file_that_was_cut_off_is_refused(cut: int) -> None:
    path = write({"path": paths(500)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match=r"^a\.parquet: its Parquet data are damaged or cut off \(.*\); copy or make"):
        open_source(path, ReadOptions())


def test_damaged_paths_are_found_before_any_row() -> None:
    path = write({"path": paths(5000)})
    content = bytearray(path.read_bytes())
    content[200:1200] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"^a\.parquet: its Parquet data are damaged or cut off"):
        opened(path).survey()


def test_a_file_that_is_replaced_while_it_is_read_stops_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.sources.parquet.parquet_part.ROWS_AT_ONCE", 10)
    source = opened(write({"path": paths(50)}, group=20))
    rows = source.rows()
    next(rows)
    write({"path": paths(20)}, name="b.parquet").replace("a.parquet")
    with pytest.raises(UsageError, match=r"^a\.parquet changed while it was read; run the same command again$"):
        list(rows)


REFUSED: dict[str, tuple[dict[str, Any], ReadOptions, str]] = {
    "no rows": ({"path": pa.array([], pa.string())}, DEFAULT_OPTIONS, " has no rows"),
    "unknown column": (
        {"path": ["a"]},
        ReadOptions(image_column="img"),
        ": no column 'img'; columns found: 'path'; name it with --image-column",
    ),
    "nested paths": (
        {"image": [{"bytes": b"x", "path": "a.jpg"}]},
        DEFAULT_OPTIONS,
        ": column 'image' holds struct<bytes: binary, path: string>, no paths; name the column of paths with "
        "--image-column, or write them as text",
    ),
    "bytes": (
        {"path": [b"a.jpg"]},
        DEFAULT_OPTIONS,
        ": column 'path' holds binary, no paths; name the column of paths with --image-column, or write them as text",
    ),
    "numbers": (
        {"path": [1]},
        DEFAULT_OPTIONS,
        ": column 'path' holds int64, no paths; name the column of paths with --image-column, or write them as text",
    ),
    "our names": (
        {"path": ["a"], "sam3_run": ["x"]},
        DEFAULT_OPTIONS,
        ": column 'sam3_run' has a name of our results; rename or remove it",
    ),
    "an encoding": (
        {"path": ["a"]},
        ReadOptions(encoding="utf-8"),
        ": is a Parquet file; --encoding and --delimiter are for files of text",
    ),
}


@pytest.mark.parametrize(("table", "options", "fault"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_holds_no_paths_is_refused_before_any_row(
    table: dict[str, Any], options: ReadOptions, fault: str
) -> None:
    with pytest.raises(UsageError) as refused:
        open_source(write(table), options)
    assert str(refused.value) == f"a.parquet{fault}"


def test_without_pyarrow_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write({"path": paths(1)})
    monkeypatch.setattr("producer.sources.parquet.parquet_source.is_installed", lambda name: False)
    with pytest.raises(UsageError, match=r"which needs pyarrow: pip install 'sam3-queue\[parquet\]', or write it as"):
        open_source(path, ReadOptions())


def test_a_file_of_another_writer_without_its_suffix_is_read() -> None:
    duckdb.sql(
        "COPY (SELECT 'p/' || i || '.jpg' AS image, i::DECIMAL(6, 1) AS n, [i, i] AS pair FROM range(3000) t(i)) "
        "TO 'rows' (FORMAT parquet, ROW_GROUP_SIZE 2048)"
    )
    source = opened(Path("rows"))
    assert source.survey().rows == 3000
    rows = list(source.rows())
    assert rows[2999] == NewRow("p/2999.jpg", {"n": "2999.0", "pair": [2999, 2999]})
    assert list(source.rows(2048)) == rows[2048:]


def test_memory_does_not_grow_with_a_row_group() -> None:
    write({"path": paths(200_000), "note": ["x" * 100 + path for path in paths(200_000)]}, group=200_000)
    source = opened(Path("a.parquet"))
    source.survey()
    before, peak = pa.total_allocated_bytes(), 0
    for _ in source.rows():
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 12_000_000, "the row group takes 24 MB"


@pytest.mark.parametrize("options", [ReadOptions(prompt_column="words"), ReadOptions(box_column="boxes")])
def test_images_whose_rows_alone_say_what_to_look_for_are_looked_for_before_anything_is_recorded(
    options: ReadOptions,
) -> None:
    path = write({"path": paths(3), "words": ["cat", "dog", "hat"], "boxes": [[[1.0, 2.0, 3.0, 4.0]]] * 3})
    survey = opened(path, replace(options, needs_prompt=True)).survey()
    assert [sampled for _, sampled in survey.sample] == paths(3)


def test_a_gzipped_file_is_refused_with_the_command_that_unpacks_it() -> None:
    Path("a b.parquet.gz").write_bytes(gzip.compress(write({"path": ["a.jpg"]}).read_bytes()))
    with pytest.raises(UsageError) as refused:
        open_source("a b.parquet.gz", DEFAULT_OPTIONS)
    said, _, command = str(refused.value).partition("; unpack it first: ")
    assert said == "a b.parquet.gz: is gzipped, and no Parquet file then"
    subprocess.run(["/bin/sh", "-c", command], check=True)
    assert [row.path for row in opened(Path("unpacked.parquet")).rows()] == ["a.jpg"]


def test_texts_of_every_arrow_type_are_paths() -> None:
    for made in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        source = opened(write({"path": pa.array(["a.jpg"], pa.string()).cast(made)}))
        assert [row.path for row in source.rows()] == ["a.jpg"]
