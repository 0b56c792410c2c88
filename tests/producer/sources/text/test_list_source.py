"""Plain lists of paths, and what is gzipped: read as it is without, and grown, edited and damaged files are known."""

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.kinds import open_source
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RowSource
from producer.sources.text.csv_source import CsvSource
from producer.sources.text.list_source import ListSource
from tests.memory import traced
from workers.errors import UsageError


def opened(content: str | bytes, name: str = "a.txt", options: ReadOptions = DEFAULT_OPTIONS) -> RowSource:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return open_source(Path(name), options)


def test_a_list_has_a_path_a_line_with_any_character_in_it() -> None:
    source = opened('a, b.jpg\r\n\r\n"c".jpg\r\n ./d;e.jpg \r\nftp:/x\r\ngopher://x/y.jpg')
    assert isinstance(source, ListSource)
    assert source.survey().rows == 5
    *good, bad = source.rows()
    assert good == [
        NewRow("a, b.jpg"),
        NewRow('"c".jpg'),
        NewRow("d;e.jpg", {"path": " ./d;e.jpg "}),
        NewRow("ftp:/x"),
    ]
    assert bad.rejected is not None
    assert bad.rejected[1].startswith("a.txt:6: 'gopher://' is a URL")
    assert (source.columns.names, source.named_columns) == (("path",), {})


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("path,n\na.jpg,1\n", DEFAULT_OPTIONS),
        ("n\tImage_Path\n1\ta.jpg\n", DEFAULT_OPTIONS),
        ("photo\na.jpg\n", ReadOptions(image_column="photo")),
        ("path;n\na.jpg;1\n", ReadOptions(delimiter=";")),
    ],
)
def test_a_txt_whose_first_line_names_columns_is_a_csv(content: str, options: ReadOptions) -> None:
    source = opened(content, options=options)
    assert isinstance(source, CsvSource)
    assert [row.path for row in source.rows()] == ["a.jpg"]


def test_paths_that_begin_with_a_bracket_are_no_json() -> None:
    for first in ("[2024] trip/a.jpg", "{old}/a.jpg", "[a].jpg"):
        source = opened(f"{first}\n")
        assert isinstance(source, ListSource)
        assert [row.path for row in source.rows()] == [first]


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^a\.txt has no rows: write one image path a line$"):
        opened("\n  \n")


CONTENT = {
    "a.csv": "path,n\n" + "".join(f"{number}.jpg,{number}\n" for number in range(3000)),
    "a.txt": "".join(f"{number}.jpg\n" for number in range(3000)),
    "a.jsonl": "".join(f'{{"path": "{number}.jpg", "n": {number}}}\n' for number in range(3000)),
}


@pytest.mark.parametrize(("name", "content"), CONTENT.items(), ids=CONTENT)
def test_what_is_gzipped_is_read_as_without(name: str, content: str) -> None:
    plain, packed = opened(content, name), opened(gzip.compress(content.encode()), f"{name}.gz")
    assert type(packed) is type(plain)
    assert list(packed.rows()) == list(plain.rows())
    assert list(packed.rows(2999)) == list(plain.rows(2999))
    before, after = plain.survey(), packed.survey()
    assert (before.rows, before.size) == (after.rows, after.size) == (3000, len(content))
    # A file that was packed after it was recorded holds what was recorded.
    assert packed.survey(before.size, before.sha256).continues
    assert plain.survey(after.size, after.sha256).continues


@pytest.mark.parametrize(("name", "content"), CONTENT.items(), ids=CONTENT)
def test_a_gzipped_file_that_grew_is_told_from_one_that_was_edited(name: str, content: str) -> None:
    whole = content.encode()
    cut = whole.rindex(b"\n", 0, len(whole) // 2) + 1
    begin = gzip.compress(whole[:cut])
    known = opened(begin, f"{name}.gz").survey()
    written_anew, member_added = gzip.compress(whole), begin + gzip.compress(whole[cut:])
    edited = gzip.compress(whole.replace(b"7.jpg", b"8.jpg"))
    for packed, continues in (
        (written_anew, True),
        (member_added, True),
        (edited, False),
        (gzip.compress(whole[: cut - 9]), False),
    ):
        survey = opened(packed, f"{name}.gz").survey(known.size, known.sha256)
        assert survey.continues is continues
        assert known.sha256 is not None
        assert survey.rows == (1500 if len(packed) < len(begin) else 3000) or not continues


def test_an_unchanged_gzipped_file_is_known_without_reading_it() -> None:
    source = opened(gzip.compress(b"a.jpg\n"), "a.txt.gz")
    known = source.survey()
    assert known.sha256 is not None
    assert source.is_still(known.size, known.mtime_ns, known.sha256)
    assert not source.is_still(known.size, known.mtime_ns + 1, known.sha256)
    opened(gzip.compress(b"a.jpg\nb.jpg\n"), "a.txt.gz")
    os.utime("a.txt.gz", ns=(known.mtime_ns, known.mtime_ns))
    assert not open_source(Path("a.txt.gz"), ReadOptions()).is_still(known.size, known.mtime_ns, known.sha256)


@pytest.mark.parametrize("cut", [5, 15, 4000, -1])
@pytest.mark.parametrize(("name", "content"), CONTENT.items(), ids=CONTENT)
def test_a_gzipped_file_that_was_cut_off_is_refused_before_any_row(name: str, content: str, cut: int) -> None:
    with pytest.raises(UsageError) as refused:
        opened(gzip.compress(content.encode())[:cut], f"{name}.gz").survey()
    assert str(refused.value) == f"{name}.gz: its gzip data are damaged or cut off; copy or make it again"


def test_damage_inside_of_a_gzipped_file_is_told() -> None:
    packed = bytearray(gzip.compress(CONTENT["a.csv"].encode()))
    packed[len(packed) // 2 : len(packed) // 2 + 8] = bytes(8)
    with pytest.raises(UsageError, match=r"^a\.csv\.gz: its gzip data are damaged or cut off"):
        opened(bytes(packed), "a.csv.gz").survey()


@pytest.mark.parametrize("line", [b"x", b"\xff"], ids=["text", "no text"])
@pytest.mark.parametrize("name", CONTENT)
def test_an_endless_line_in_a_small_gzipped_file_is_refused_before_it_fills_the_memory(name: str, line: bytes) -> None:
    first = CONTENT[name].splitlines(keepends=True)[0].encode()
    packed = gzip.compress(first + (80 << 20) * line, 1)
    too_long = r"a line of more than 16 MiB; give a .* with one image a line$"
    with traced() as memory, pytest.raises(UsageError, match=too_long):
        opened(packed, f"{name}.gz").survey()
    assert memory.peak < 75_000_000


@pytest.mark.parametrize("name", CONTENT)
def test_memory_does_not_grow_with_the_rows(name: str) -> None:
    lines = CONTENT[name].splitlines(keepends=True)
    header, data = (lines[:1], lines[1:]) if name == "a.csv" else ([], lines)
    source = opened(gzip.compress("".join([*header, *data * 10]).encode(), 1), f"{name}.gz")
    with traced() as memory:
        rows = source.survey().rows
        count = sum(1 for _ in source.rows())
    assert count == rows == 30_000
    assert memory.peak < 3_000_000, "30,000 rows at once would take more than 6 MB"


@pytest.mark.parametrize(("name", "suffix"), [("a.txt.gz", ".txt"), ("a.jsonl.gz", ".jsonl"), ("a.csv", ".csv")])
def test_a_gzip_of_a_gzip_is_refused_with_the_command_whose_file_is_read(name: str, suffix: str) -> None:
    content = {".txt": "a.jpg\n", ".jsonl": '{"path": "a.jpg"}\n', ".csv": "path\na.jpg\n"}[suffix]
    with pytest.raises(UsageError) as refused:
        opened(gzip.compress(gzip.compress(content.encode())), name)
    command = str(refused.value).partition("unpack it first: ")[2]
    assert command == f"gunzip < {name} > unpacked{suffix}"
    subprocess.run(["/bin/sh", "-c", command], check=True)
    assert [row.path for row in open_source(f"unpacked{suffix}", DEFAULT_OPTIONS).rows()] == ["a.jpg"]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\xff\xfe", b"\n\r\n"])
def test_a_list_with_a_mark_or_blank_lines_alone_has_no_rows(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"^a\.txt has no rows: write one image path a line$"):
        opened(content)
