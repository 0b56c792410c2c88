"""The rules of a row, told of rows of a CSV: a bad row is rejected with its reason, and its neighbours are fine."""

from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.source import ReadOptions
from producer.sources.text.csv_source import CsvSource
from tests.producer.sources.conftest import rows_of, write

LONG_NAME = 256 * "n"
LONG_PATH = "/".join(30 * [200 * "d"])

# What follows the header `path,label`, and the row that becomes of it.
REJECTED: dict[str, tuple[bytes, str, dict[str, str], str, str]] = {
    "Latin-1 path": (
        b"caf\xe9.jpg,x",
        r"caf\xe9.jpg",
        {"label": "x"},
        "bad_row",
        "column 'path' is not valid UTF-8; correct the cell",
    ),
    "Latin-1 cell": (
        b"a.jpg,caf\xe9",
        "a.jpg",
        {"label": r"caf\xe9"},
        "bad_row",
        "column 'label' is not valid UTF-8; correct the cell",
    ),
    "NUL": (
        b"a\0.jpg,x",
        r"a\x00.jpg",
        {"label": "x"},
        "bad_path",
        r"the path holds \x00, which is no text; rename the file or its folder",
    ),
    "NUL elsewhere": (
        b"a.jpg,x\0",
        "a.jpg",
        {"label": r"x\x00"},
        "bad_row",
        "NUL character in column 'label'; remove it",
    ),
    "escape": (
        b"a\x1b[2J.jpg,x",
        r"a\x1b[2J.jpg",
        {"path": "a\x1b[2J.jpg", "label": "x"},
        "bad_path",
        r"the path holds \x1b, which is no text; rename the file or its folder",
    ),
    "too few": (b"a.jpg", "a.jpg", {}, "bad_row", "1 column, the header has 2"),
    "too many": (b"a.jpg,x,y", "a.jpg", {"label": "x"}, "bad_row", "3 columns, the header has 2"),
    "empty": (
        b",x",
        "",
        {"label": "x"},
        "bad_path",
        "empty path; give the image's path, or remove the row",
    ),
    "blank": (
        b"  ,x",
        "  ",
        {"label": "x"},
        "bad_path",
        "empty path; give the image's path, or remove the row",
    ),
    "http": (
        b"http://h/a.jpg,x",
        "http://h/a.jpg",
        {"label": "x"},
        "bad_path",
        "'http://' is a URL that is not read; give the path of a local copy, or s3://, gs://, az:// or https://",
    ),
    "bucket": (
        b"s3://bucket,x",
        "s3://bucket",
        {"label": "x"},
        "bad_path",
        "the URL names no object; write it like s3://bucket/folder/a.jpg",
    ),
    "dots": (
        b"s3://b/a/../../c/d.jpg,x",
        "s3://b/a/../../c/d.jpg",
        {"label": "x"},
        "bad_path",
        "the URL holds an empty name, . or .., which no bucket is asked for; give the object another key",
    ),
    "user": (
        b"s3://me:canary@b/a.jpg,x",
        "s3://***@b/a.jpg",
        {"label": "x"},
        "bad_path",
        "the URL holds a user or a password; leave them out, and give them to the workers' environment",
    ),
    "signature": (
        b"https://h/a.jpg?X-Amz-Signature=canary&x=1,x",
        "https://h/a.jpg?***",
        {"label": "x"},
        "bad_path",
        "the URL holds a signature or a token, which ends before a run may; use s3://, gs:// or az://",
    ),
    "key": (
        f"s3://b/{'k' * 1025},x".encode(),
        f"s3://b/{'k' * 993}...",
        {"path": f"s3://b/{'k' * 1025}", "label": "x"},
        "bad_path",
        "key of 1025 bytes; shorten it to 1024",
    ),
    "file": (
        b"FILE:///a.jpg,x",
        "FILE:///a.jpg",
        {"label": "x"},
        "bad_path",
        "'FILE://' is a URL that is not read; write the path alone, such as /data/a.jpg",
    ),
    "share": (
        b"\\\\host\\share\\a.jpg,x",
        "\\\\host\\share\\a.jpg",
        {"label": "x"},
        "bad_path",
        "a network share is no path; mount it and give the path below its mount",
    ),
    "long name": (
        f"d/{LONG_NAME},x".encode(),
        f"d/{LONG_NAME}",
        {"label": "x"},
        "bad_path",
        "the path holds a name of 256 bytes; shorten it to 255",
    ),
    "long name in few characters": (
        ("d/" + 100 * "照" + ",x").encode(),
        "d/" + 100 * "照",
        {"label": "x"},
        "bad_path",
        "the path holds a name of 300 bytes; shorten it to 255",
    ),
    "long path": (
        f"{LONG_PATH},x".encode(),
        LONG_PATH[:1000] + "...",
        {"path": LONG_PATH, "label": "x"},
        "bad_path",
        "path of 6029 bytes; shorten it to 2600",
    ),
}


@pytest.mark.parametrize(("line", "path", "cells", "error_class", "fault"), REJECTED.values(), ids=REJECTED)
def test_a_bad_row_is_rejected_and_named_and_its_neighbours_are_fine(
    line: bytes, path: str, cells: dict[str, str], error_class: str, fault: str
) -> None:
    first, bad, last = rows_of(b"path,label\nfirst.jpg,1\n" + line + b"\nlast.jpg,2\n")
    assert bad == NewRow(path, cells or None, rejected=(error_class, f"images.csv:3: {fault}"))
    assert [first, last] == [NewRow("first.jpg", {"label": "1"}), NewRow("last.jpg", {"label": "2"})]


def test_the_message_names_the_first_line_of_a_row_over_several() -> None:
    rows = rows_of('path,label\r\n"a.jpg","1\r\n2\r\n3"\r\n,"4\r\n5"\r\n')
    assert rows[0] == NewRow("a.jpg", {"label": "1\r\n2\r\n3"})
    assert rows[1].rejected == ("bad_path", "images.csv:5: empty path; give the image's path, or remove the row")


def test_two_spellings_of_a_path_become_one_and_keep_their_cells() -> None:
    rows = rows_of("path\nb/a.jpg\n./b//x/../a.jpg\n//b/a.jpg\n.hidden/a.jpg\n")
    assert rows == [
        NewRow("b/a.jpg"),
        NewRow("b/a.jpg", {"path": "./b//x/../a.jpg"}),
        NewRow("/b/a.jpg", {"path": "//b/a.jpg"}),
        NewRow(".hidden/a.jpg"),
    ]


def test_no_path_leaves_a_given_root() -> None:
    path = write(
        "path\na.jpg\nb/../../c.jpg\n../etc/passwd\n/etc/passwd\n/data/a.jpg\n/data/../b.jpg\n/database/c.jpg\n"
    )
    rows = list(CsvSource(path, ReadOptions(root=Path("/data"))).rows())
    fault = "the path leaves the image root /data; move the file below it, or choose another --image-root"
    assert [(row.path, row.rejected) for row in rows] == [
        ("a.jpg", None),
        ("b/../../c.jpg", ("outside_root", f"images.csv:3: {fault}")),
        ("../etc/passwd", ("outside_root", f"images.csv:4: {fault}")),
        ("/etc/passwd", ("outside_root", f"images.csv:5: {fault}")),
        ("/data/a.jpg", None),
        ("/data/../b.jpg", ("outside_root", f"images.csv:7: {fault}")),
        ("/database/c.jpg", ("outside_root", f"images.csv:8: {fault}")),
    ]


def test_the_root_of_the_file_system_confines_nothing() -> None:
    source = CsvSource(write("path\n/etc/a.jpg\n"), ReadOptions(root=Path("/")))
    assert list(source.rows()) == [NewRow("/etc/a.jpg")]


def test_cells_that_look_like_formulas_stay_as_they_are() -> None:
    rows = rows_of("path,label,\n=a.jpg,=cmd(),+1\n-b.jpg,@x,-1\n")
    assert rows == [NewRow("=a.jpg", {"label": "=cmd()", "": "+1"}), NewRow("-b.jpg", {"label": "@x", "": "-1"})]


def test_paths_of_any_script_and_with_spaces_are_good() -> None:
    names = [
        "照片/猫.jpg",
        "my photo.jpg",
        "a:b.jpg",
        "no\u00a0break.jpg",
        "C:\\x.jpg",
        250 * "a" + ".jpg",
    ]
    assert [row.path for row in rows_of("path\n" + "\n".join(names))] == names


def test_prompts_of_a_cell_are_split_trimmed_and_counted_once() -> None:
    many = " ".join(31 * ["very"])
    path = write(f"path,what\na.jpg,cat\nb.jpg, cat | red dog|cat\nc.jpg,\nd.jpg,cat||dog\ne.jpg,{many}\n")
    rows = list(CsvSource(path, ReadOptions(prompt_column="what")).rows())
    assert rows == [
        NewRow("a.jpg", {"what": "cat"}, ("cat",)),
        NewRow("b.jpg", {"what": " cat | red dog|cat"}, ("cat", "red dog")),
        NewRow("c.jpg", {"what": ""}, None),
        NewRow(
            "d.jpg",
            {"what": "cat||dog"},
            rejected=("prompt", "images.csv:5: empty prompt; write a word, or remove it"),
        ),
        NewRow(
            "e.jpg", {"what": many}, rejected=("prompt", "images.csv:6: prompt of 31 words; shorten it to 30 words")
        ),
    ]


def test_a_prompt_longer_than_the_index_of_databases_is_rejected_and_named() -> None:
    path = write(f"path,what\na.jpg,{'w' * 1000}\nb.jpg,{'w' * 9000}\nc.jpg,{'é' * 501}\n")
    good, *bad = CsvSource(path, ReadOptions(prompt_column="what")).rows()
    assert good.prompts == ("w" * 1000,)
    assert [row.rejected for row in bad] == [
        ("prompt", "images.csv:3: prompt of 9,000 bytes; shorten it to 1,000 bytes"),
        ("prompt", "images.csv:4: prompt of 1,002 bytes; shorten it to 1,000 bytes"),
    ]


def test_a_row_without_a_prompt_is_rejected_if_the_run_has_none() -> None:
    path = write("path,what\na.jpg,cat\nb.jpg, \n")
    good, bad = CsvSource(path, ReadOptions(needs_prompt=True, prompt_column="what")).rows()
    assert good.prompts == ("cat",)
    assert bad.rejected == ("prompt", "images.csv:3: no prompt in column 'what'; write one, or give --prompt")
