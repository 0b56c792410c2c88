"""Several files of text that match a pattern are one source, with a file's rules, in a fixed order."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from producer.sources.kinds import open_source
from producer.sources.parts_source import PartsSource
from producer.sources.selection import LeftOut
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions
from producer.sources.text.text_source import TextSource
from tests.producer.sources.conftest import Known
from workers.errors import UsageError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> Path:
    path = Path("lists", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def opened(pattern: str = "lists/*.csv", options: ReadOptions = DEFAULT_OPTIONS) -> PartsSource:
    source = open_source(pattern, options)
    assert isinstance(source, PartsSource)
    return source


def paths(source: PartsSource, skip: int = 0) -> list[str]:
    return [row.path for row in source.rows(skip)]


def refusal(pattern: str = "lists/*.csv", options: ReadOptions = DEFAULT_OPTIONS) -> str:
    with pytest.raises(UsageError) as refused:
        open_source(pattern, options).survey()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_files_come_in_the_order_of_their_paths_and_numbers_count_as_numbers() -> None:
    write("part-10.csv", "path,n\nd.jpg,4\n")
    write("part-9.csv", "n,path\r\n3,c.jpg\r\n")  # another order of columns, other line ends
    write("part-2.csv.gz", gzip.compress(b"path,n\nnever.jpg,0\n"))  # is not matched
    write("below/part-1.csv", "path,n\na.jpg,1\nb.jpg,2")  # no line end
    source = opened("lists/**/*.csv")
    assert paths(source) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [row.cells for row in source.rows(1)] == [{"n": "2"}, {"n": "3"}, {"n": "4"}]
    survey = source.survey()
    assert survey.rows == 4
    assert survey.sample == ((0, "a.jpg"), (1, "b.jpg"), (2, "c.jpg"), (3, "d.jpg"))
    assert source.root == str(Path("lists").absolute())
    assert (source.told, source.columns.names, source.named_columns) == (
        "as 3 files",
        ("path", "n"),
        {"image_column": "path"},
    )
    assert paths(opened("lists/*.csv")) == ["c.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        ("*.csv", lambda name: f"path\n{name}\n"),
        ("*.tsv", lambda name: f"path\tx\n{name}\t1\n"),
        ("*.txt", lambda name: f"{name}\n"),
        ("*.jsonl", lambda name: f'{{"path": "{name}"}}\n'),
        ("part-*.json", lambda name: f'{{"path": "{name}"}}\n'),  # as Spark names JSON Lines
        ("*.csv.gz", lambda name: gzip.compress(f"path\n{name}\n".encode())),
    ],
)
def test_each_kind_of_text_may_be_in_parts(pattern: str, content: Any) -> None:
    suffix = pattern.partition("*")[2]
    for number in range(3):
        write(f"part-{number}{suffix}", content(f"{number}.jpg"))
    write(f"part-3{suffix}", content("ftp://x/bad.jpg"))
    *good, bad = opened(f"lists/{pattern}").rows()
    assert [row.path for row in good] == ["0.jpg", "1.jpg", "2.jpg"]
    assert bad.rejected is not None
    assert bad.rejected[1].startswith(f"part-3{suffix}:")


def test_what_spark_writes_beside_its_files_and_files_without_a_row_are_no_rows() -> None:
    write("part-0.json", "")
    write("part-1.json", '{"path": "a.jpg", "n": null}\n')
    write("part-2.json", '{"path": "b.jpg", "n": 1, "m": true}\n')
    write("_SUCCESS", "")
    write(".part-1.json.crc", "crc")
    write("_temporary/part-2.json", '{"path": "c.jpg"}\n')
    source = opened("lists/**/*.json")
    assert paths(source) == ["a.jpg", "b.jpg"]
    assert source.left_out == (LeftOut("without rows", 1, "part-0.json"),)
    source.survey()
    assert source.columns.types == {"path": "string", "n": "int64", "m": "bool"}
    write("part-1.json", "")
    os.unlink("lists/part-2.json")
    assert refusal("lists/*.json").startswith(
        "lists/*.json: matches no file with rows; left out: 2 without rows (part-0"
    )


def test_new_files_behind_the_others_continue_and_nothing_old_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "path\n1.jpg\n2.jpg\n")
    write("b.csv", "path\n3.jpg\n")
    known = Known(opened)
    assert known.is_still()
    assert known.continues()
    write("c.csv", "path\n4.jpg\n")
    assert known.continues()
    assert not known.is_still()
    source = opened()
    source.survey()
    read: list[str] = []
    rows = TextSource.rows

    def noted(part: Any, skip: int = 0) -> Any:
        read.append(part.file.name)
        return rows(part, skip)

    with monkeypatch.context() as watched:
        watched.setattr(TextSource, "rows", noted)
        assert paths(source, skip=3) == ["4.jpg"]
    assert read == ["c.csv"]
    assert paths(opened(), skip=1) == ["2.jpg", "3.jpg", "4.jpg"]

    write("aa.csv", "path\n5.jpg\n")
    assert not known.continues(), "the rows of another file come between the old ones"
    os.unlink("lists/aa.csv")
    os.unlink("lists/a.csv")
    assert not known.continues(), "a file has vanished"


def test_a_file_that_vanishes_while_they_are_read_stops_there() -> None:
    write("a.csv", "path\n1.jpg\n")
    gone = write("b.csv", "path\n2.jpg\n")
    source = opened()
    rows = source.rows()
    next(rows)
    gone.unlink()
    with pytest.raises(UsageError, match=r"^lists/b\.csv changed while it was read; run the same command again$"):
        list(rows)


DIFFERENT = {
    "missing": ("path,n\na.jpg,1\n", "path\nb.jpg\n", "lists/b.csv has no column 'n', a.csv has; write all files of a"),
    "added": ("path\na.jpg\n", "path,n\nb.jpg,1\n", "lists/a.csv has no column 'n', b.csv has; write all files of a"),
    "no paths": ("path\na.jpg\n", "b.jpg\nc.jpg\n", "lists/b.csv: no column 'path'; columns found: 'b.jpg'"),
    "kind": ("path\na.jpg\n", "[1, 2", "lists/b.csv: no column 'path'"),
    "damaged": ("path\na.jpg\n", '"', "lists/b.csv:1: quote opened and never closed"),
}


@pytest.mark.parametrize(("one", "other", "fault"), DIFFERENT.values(), ids=DIFFERENT)
def test_files_that_do_not_belong_together_are_refused(one: str, other: str, fault: str) -> None:
    write("a.csv", one)
    write("b.csv", other)
    assert refusal().startswith(fault)


def test_files_of_two_kinds_are_refused() -> None:
    write("a.txt", "a.jpg\n")
    write("b.txt", '{"path": "b.jpg"}\n')
    assert refusal("lists/*.txt") == "lists/*.txt: b.txt is a JSON Lines file, a.txt a list; give files of one kind"


@pytest.mark.parametrize(
    ("kind", "rows", "null"),
    [
        ("csv", "path,n\na.jpg,1\n", ""),
        ("jsonl", '{"path": "a.jpg", "n": "1"}\n{"path": 5}\n', None),
    ],
)
def test_names_of_folders_such_as_camera_2_are_cells(kind: str, rows: str, null: str | None) -> None:
    write(f"camera=2/n=7/path=x/a.{kind}", rows)
    write(f"camera=__HIVE_DEFAULT_PARTITION__/b.{kind}", rows)
    source = opened(f"lists/**/*.{kind}")
    assert source.told == "as 2 files; with column 'camera' from the names of folders"
    assert source.columns.names == ("path", "n", "camera")
    cells = [row.cells for row in source.rows() if not row.rejected]
    assert cells == [{"n": "1", "camera": "2"}, {"n": "1", "camera": null}]
    assert all(row.cells and "camera" in row.cells for row in source.rows())


def test_a_list_in_a_folder_with_a_name_such_as_camera_2_has_that_column() -> None:
    write("camera=2/a.txt", "a.jpg\n")
    source = opened("lists/**/*.txt")
    assert [(row.path, row.cells) for row in source.rows()] == [("a.jpg", {"camera": "2"})]


def test_a_file_that_moves_to_another_folder_does_not_continue_the_source() -> None:
    write("camera=1/a.csv", "path\na.jpg\n")
    known = Known(lambda: opened("lists/**/*.csv"))
    assert known.continues()
    Path("lists/camera=1").rename("lists/camera=2")
    assert not known.is_still()
    assert not known.continues()


def test_a_folder_of_lists_is_refused_with_the_pattern_that_reads_them() -> None:
    write("b/x.csv", "path\nb.jpg\n")
    write("a.csv", "path\na.jpg\n")
    said = refusal("lists")
    assert said.endswith("; if such files name images, give 'lists/**/*.csv'")
    assert paths(opened("lists/**/*.csv")) == ["a.jpg", "b.jpg"]
