"""Folders of Parquet files, as Spark, datasets, pandas and DuckDB write them, are one source with a file's rules."""

import os
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from producer.layout import TABLE_ORIGIN
from producer.sources.folder import FolderSource
from producer.sources.kinds import open_source
from producer.sources.parquet.parquet_part import ParquetPart
from producer.sources.parquet.parquet_source import ParquetFolderSource
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions
from tests.producer.sources.conftest import Known
from workers.errors import UsageError


def write(name: str, first: int, count: int, **columns: Any) -> Path:
    path = Path("parts", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"path": [f"{number:03}.jpg" for number in range(first, first + count)], **columns}
    pq.write_table(pa.table(table), path, row_group_size=10)
    return path


def picture(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path)


def opened(path: str = "parts", options: ReadOptions = DEFAULT_OPTIONS) -> ParquetFolderSource:
    source = open_source(Path(path), options)
    assert isinstance(source, ParquetFolderSource)
    return source


def numbers(source: ParquetFolderSource, skip: int = 0) -> list[int]:
    return [int(row.path[:3]) for row in source.rows(skip)]


def refusal(path: str = "parts", options: ReadOptions = DEFAULT_OPTIONS) -> str:
    with pytest.raises(UsageError) as refused:
        open_source(Path(path), options).survey()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_rows_of_all_files_come_in_the_order_of_their_paths_and_numbers_count_as_numbers() -> None:
    write("part.10.parquet", 60, 5)
    write("part.9.parquet", 40, 20)
    write("part.1.parquet", 0, 25)
    write("nested/below/x", 25, 15)
    source = opened()
    assert numbers(source) == [*range(25, 40), *range(25), *range(40, 65)]
    survey = source.survey()
    assert survey.rows == 65
    assert len(survey.sample) == 65
    assert source.told == "as 4 Parquet files"
    assert source.root == str(Path("parts").absolute())
    assert numbers(opened("parts/*.parquet")) == [*range(25), *range(40, 65)]
    assert opened("parts/*.parquet").root == str(Path("parts").absolute())


def test_what_spark_writes_beside_its_files_is_no_row() -> None:
    write("part-00000-6c1e.c000.snappy.parquet", 0, 3, n=[1, None, 3])
    write("part-00001-6c1e.c000.snappy.parquet", 3, 0, n=pa.array([], pa.int64()))
    write("_temporary/0/part-00002.parquet", 3, 3, n=[1, 2, 3])
    write("_metadata", 3, 3, n=[1, 2, 3])
    write(".part-00000.parquet", 3, 3, n=[1, 2, 3])
    Path("parts/_SUCCESS").touch()
    Path("parts/.part-00000-6c1e.c000.snappy.parquet.crc").write_bytes(b"crc\0")
    Path("parts/old.csv").write_text("path\nb.jpg\n")
    source = opened()
    assert numbers(source) == [0, 1, 2]
    assert [(one.reason, one.example) for one in source.left_out] == [("not a Parquet file", "old.csv")]


def test_what_duckdb_took_out_of_the_rows_into_names_of_folders_is_a_column_again() -> None:
    duckdb.sql(
        "COPY (SELECT 100 + i || '.jpg' AS path, CASE i WHEN 0 THEN NULL WHEN 1 THEN 'ä/=%' ELSE 'left' END AS camera,"
        " i AS n FROM range(4) t(i)) TO 'parts' (FORMAT parquet, PARTITION_BY (camera))"
    )
    source = opened()
    assert source.survey().rows == 4
    assert source.told == "as 3 Parquet files; with column 'camera' from the names of folders"
    assert source.columns.types == {"path": "string", "n": "int64", "camera": "string"}
    found = {row.path: row.cells for row in source.rows()}
    cameras = {0: None, 1: "ä/=%", 2: "left", 3: "left"}
    assert found == {f"{100 + n}.jpg": {"n": n, "camera": camera} for n, camera in cameras.items()}


def test_a_column_that_the_files_have_counts_and_not_the_names_of_their_folders() -> None:
    write("camera=left/path=x/a.parquet", 0, 1, camera=[7])
    source = opened()
    assert [row.cells for row in source.rows()] == [{"camera": 7}]
    assert source.told == "as 1 Parquet file"


def test_a_name_of_a_folder_is_no_column_of_prompts_and_none_of_our_results() -> None:
    write("words=cat/a.parquet", 0, 1)
    assert "no column 'words'" in refusal(options=ReadOptions(prompt_column="words"))
    write("sam3_status=done/a.parquet", 0, 1)
    assert "column 'sam3_status' has a name of our results" in refusal()


def test_a_file_that_moves_to_another_folder_does_not_continue_the_source() -> None:
    first = write("camera=1/a.parquet", 0, 5)
    known = Known(opened)
    assert known.continues()
    Path("parts/camera=2").mkdir()
    first.rename("parts/camera=2/a.parquet")
    assert not known.is_still()
    assert not known.continues()


def test_new_files_behind_the_others_and_new_row_groups_continue_and_nothing_old_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("a.parquet", 0, 15)
    write("b.parquet", 15, 10)
    known = Known(opened)
    assert known.is_still()
    assert known.continues()
    write("c.parquet", 25, 5)
    assert known.continues()
    assert not known.is_still()
    read: list[str] = []
    batches = ParquetPart.batches

    def noted(part: ParquetPart, *rest: Any) -> Any:
        read.append(part.file.name)
        return batches(part, *rest)

    with monkeypatch.context() as watched:
        watched.setattr(ParquetPart, "batches", noted)
        assert numbers(opened(), skip=25) == [25, 26, 27, 28, 29]
    assert read == ["c.parquet"]
    assert numbers(opened(), skip=12) == list(range(12, 30))

    write("aa.parquet", 25, 5)
    assert not known.continues(), "the rows of another file come between the old ones"
    os.unlink("parts/aa.parquet")
    os.unlink("parts/a.parquet")
    assert not known.continues(), "a file has vanished"


def test_a_file_that_was_replaced_by_one_of_its_size_and_time_is_seen_if_another_one_is_newer() -> None:
    first = write("a.parquet", 0, 15)
    write("b.parquet", 15, 10)
    known = Known(opened)
    os.utime(first, ns=(0, 0))
    assert not known.is_still()
    assert known.continues(), "its content is the same"


def test_a_column_without_a_value_in_one_file_has_the_type_that_it_has_in_the_others() -> None:
    write("a.parquet", 0, 2, note=[None, None], n=[1, 2])
    write("b.parquet", 2, 2, n=[3, 4], note=["x", None])  # pandas writes such files; the order may differ, too
    source = opened()
    assert source.columns.types == {"path": "string", "note": "string", "n": "int64"}
    assert [row.cells for row in source.rows()] == [
        {"note": None, "n": 1},
        {"note": None, "n": 2},
        {"note": "x", "n": 3},
        {"note": None, "n": 4},
    ]


SAME = "write all files of a source with the same"
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "type": ({"n": [1]}, {"n": ["1"]}, f"b.parquet: column 'n' holds string, in a.parquet int64; {SAME} types"),
    "missing": ({"n": [1]}, {}, f"b.parquet has no column 'n', a.parquet has; {SAME} columns"),
    "added": ({}, {"n": [1]}, f"a.parquet has no column 'n', b.parquet has; {SAME} columns"),
}


@pytest.mark.parametrize(("one", "other", "fault"), DIFFERENT.values(), ids=DIFFERENT)
def test_files_with_other_columns_are_refused(one: dict[str, Any], other: dict[str, Any], fault: str) -> None:
    write("a.parquet", 0, 1, **one)
    write("b.parquet", 1, 1, **other)
    assert refusal() == f"parts/{fault}"


def test_a_row_that_is_bad_is_named_by_its_file_and_a_file_that_was_cut_off_too() -> None:
    write("a.parquet", 0, 12)
    write("below/b.parquet", 0, 0, path=["a.jpg", ""])
    *_, rejected = opened().rows()
    assert rejected.rejected is not None
    assert rejected.rejected[1].startswith("below/b.parquet: row 2: empty path;")
    Path("parts/c.parquet").touch()
    assert refusal().startswith("parts/c.parquet: its Parquet data are damaged or cut off (")


def test_a_file_that_vanishes_while_the_folder_is_read_stops_there() -> None:
    write("a.parquet", 0, 12)
    gone = write("b.parquet", 12, 12)
    rows = opened().rows()
    next(rows)
    gone.unlink()
    with pytest.raises(UsageError, match=r"^parts/b\.parquet changed while it was read; run the same command again$"):
        list(rows)


def test_a_folder_without_a_row_and_a_delta_table_are_refused() -> None:
    write("a.parquet", 0, 0, path=pa.array([], pa.string()))
    assert refusal() == "parts has no rows"
    write("_delta_log/00.checkpoint.parquet", 0, 1)
    assert refusal().startswith("parts: is a Delta table, whose folder may hold rows that were deleted; write its rows")


@pytest.mark.parametrize("first", ["a", "z"])
def test_a_folder_of_images_and_parquet_files_is_refused_and_what_is_advised_works(first: str) -> None:
    write("m.parquet", 0, 3)
    picture(f"parts/below/{first}.jpg")
    picture(f"parts/{first}.jpg")
    advised = "'parts/**/*.parquet' for the rows of such files, or 'parts/**/*.jpg' for such images"
    image = {"a": "a.jpg", "z": "below/z.jpg"}[first]
    assert refusal() == f"parts: holds images ({image}) and Parquet files (m.parquet); give {advised}"
    assert refusal("parts/**") == f"parts/**: holds images ({image}) and Parquet files (m.parquet); give {advised}"
    for options in (ReadOptions(root=Path("photos")), ReadOptions(image_column="path"), ReadOptions(prompt_column="p")):
        assert refusal("parts", options).endswith(f"give {advised}")
    assert numbers(opened("parts/**/*.parquet")) == [0, 1, 2]
    images = open_source(Path("parts/**/*.jpg"), DEFAULT_OPTIONS)
    assert isinstance(images, FolderSource)
    assert images.survey().rows == 2


def test_a_parquet_file_of_our_own_makes_no_folder_of_images_a_mixture() -> None:
    picture("parts/a.jpg")
    table = pa.table({"path": ["sam3-queue"]})
    pq.write_table(table.replace_schema_metadata({TABLE_ORIGIN: "{}"}), "parts/results.parquet")
    source = open_source(Path("parts"), DEFAULT_OPTIONS)
    assert source.survey().rows == 1
    assert [one.reason for one in source.left_out] == ["from sam3-run or sam3-export"]
    pq.write_table(table, "parts/results.parquet")
    assert "holds images (a.jpg) and Parquet files (results.parquet)" in refusal()
