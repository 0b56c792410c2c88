"""Inputs as people have them: every fault is one line that names the place, and good rows get through."""

import csv
import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.csv_source import CsvSource
from producer.sources.file import LINE_BYTES
from producer.sources.folder import FolderSource
from producer.sources.selection import LeftOut
from producer.sources.source import ReadOptions
from producer.sources.text_source import ROWS_PER_LOOK
from workers.errors import UsageError

SAVE = "save the sheet with the paths as CSV (File, Save As, CSV UTF-8) and give that file"


def zipped(*names: str, mimetype: str = "", size: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        if mimetype:
            archive.writestr("mimetype", mimetype)
        for name in names:
            archive.writestr(name, size * b"x")
    return file.getvalue()


def write(content: str | bytes) -> Path:
    path = Path("images.csv")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(content: str | bytes) -> list[NewRow]:
    return list(CsvSource(write(content)).rows())


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "C2 empty": ("", "images.csv has no data rows: write one image path a line below the header"),
    "C2 header only": ("path\r\n\n  \n", "images.csv has no data rows: write one image path a line below the header"),
    "C3 no image column": (
        "id,img_path,label\n1,a.jpg,x\n",
        "images.csv: no column of image paths; columns found: 'id', 'img_path', 'label'; --image-column img_path?",
    ),
    "C3 nothing likely": (
        "x,y\n1,2\n",
        "images.csv: no column of image paths; columns found: 'x', 'y'; name it with --image-column",
    ),
    "C3 no header": (
        "a.jpg\nb.jpg\n",
        "images.csv: its first line holds 'a.jpg', no column names; put a header above it",
    ),
    "C4 twice": (
        "path,label,path\na.jpg,x,b.jpg\n",
        "images.csv: column 'path' appears 2 times in the header; rename all but one",
    ),
    "C4 unnamed twice": (
        "path,,\na.jpg,,\n",
        "images.csv: a column without a name appears 2 times in the header; rename all but one",
    ),
    "our names": (
        "path,sam3_status\na.jpg,done\n",
        "images.csv: column 'sam3_status' has a name of our results; rename or remove it",
    ),
    "C6 UTF-16 unmarked": (
        "path\na.jpg\n".encode("utf-16-le"),
        "images.csv: is not UTF-8 text; if it is UTF-16: --encoding utf-16-le",
    ),
    "C6 Latin-1 header": (
        "path,größe\na.jpg,1\n".encode("latin-1"),
        r"images.csv:1: 'gr\xf6\xdfe' is not UTF-8; --encoding cp1252 reads it as 'größe'",
    ),
    "C6 Latin-1 row": (
        'path,label\na.jpg,x\n\nb.jpg,"on\ntwo"\ncafé.jpg,y\n'.encode("latin-1"),
        r"images.csv:6: 'caf\xe9.jpg' is not UTF-8; --encoding cp1252 reads it as 'café.jpg', "
        "--encoding utf-8 rejects only such rows",
    ),
    "C6 no Windows code page": (
        b"path\na\x81.jpg\n",
        r"images.csv:2: 'a\x81.jpg' is not UTF-8; --encoding latin1 reads it as 'a\x81.jpg', "
        "--encoding utf-8 rejects only such rows",
    ),
    "C6 UTF-16 cut": (
        "path\na.jpg\n".encode("utf-16")[:-1],
        "images.csv: is not valid UTF-16-LE; save it again, or give its --encoding",
    ),
    "C7 open quote": (
        'path,label\na.jpg,x\n"b\nc".jpg,"y\n',
        'images.csv:3: text after a closing quote; write a quote inside a cell as ""',
    ),
    "C7 open to the end": (
        'path,label\na.jpg,x\nb.jpg,"y\nc.jpg,z\n',
        'images.csv:3: quote opened and never closed; close it, or write a quote inside a cell as ""',
    ),
    "C7 open over the limit": (
        'path\na.jpg\n"b.jpg\n' + 20000 * "c.jpg\n" + 4000 * "dddddddd.jpg\n",
        'images.csv:3: quote opened and never closed; close it, or write a quote inside a cell as ""',
    ),
    "C8 long cell": (
        "path,note\na.jpg,x\nb.jpg," + 200_000 * "y" + "\n",
        "images.csv:3: cell longer than 131072 characters; shorten it or remove its column",
    ),
    "C12 one endless line": (
        "a" * (1 << 20),
        "images.csv: no line break in its first MiB; give a CSV with one image a line",
    ),
    "C13 semicolons without a column of paths": (
        "img;label\na.jpg;x\n",
        "images.csv: no column of image paths; columns found: 'img', 'label'; --image-column img?",
    ),
    "C13 tabs without a header": (
        "a.jpg\tx\nb.jpg\ty\n",
        "images.csv: its first line holds 'a.jpg', no column names; put a header above it",
    ),
    "C13 sep alone": ("sep=;\n", "images.csv has no data rows: write one image path a line below the header"),
    "C24 gzip": (
        b"\x1f\x8b\x08\0",
        "images.csv: its gzip data are damaged or cut off; copy or make it again",
    ),
    "C24 zip": (b"PK\3\4 images.csv", "images.csv: is zip, not CSV text; unpack it first: unzip images.csv"),
    "C24 xlsx": (
        zipped("xl/workbook.xml", "[Content_Types].xml"),
        f"images.csv: is an Excel workbook, not CSV text; {SAVE}",
    ),
    "C24 xlsx with its list of contents last, and long": (
        zipped("xl/media/photo.jpg", "xl/workbook.xml", "[Content_Types].xml", size=2 << 20),
        f"images.csv: is an Excel workbook, not CSV text; {SAVE}",
    ),
    "C24 xlsx cut": (
        zipped("[Content_Types].xml", "xl/workbook.xml")[:-10],
        f"images.csv: is an Excel workbook, not CSV text; {SAVE}",
    ),
    "C24 ods": (
        zipped(mimetype="application/vnd.oasis.opendocument.spreadsheet"),
        f"images.csv: is an OpenDocument file, not CSV text; {SAVE}",
    ),
    "C24 docx": (
        zipped("word/document.xml", "[Content_Types].xml"),
        f"images.csv: is an Office document, not CSV text; {SAVE}",
    ),
    "C24 parquet": (
        b"PAR1\x15\0",
        "images.csv: is Parquet, not CSV text; write it as CSV first, for example with pandas: "
        "to_csv(..., index=False)",
    ),
    "a photograph": (
        b"\xff\xd8\xff\xe0",
        "images.csv: is a JPEG image, not CSV text; give a CSV of image paths, or the image's folder",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_no_csv_of_images_is_refused_before_any_row(content: str | bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(UsageError) as refused:
        CsvSource(path).survey()
    assert str(refused.value) == message


def test_c12_an_endless_line_is_refused_before_it_fills_the_memory() -> None:
    source = CsvSource(write(b"path\na.jpg\n" + (LINE_BYTES + 100_000) * b"x"))
    with pytest.raises(UsageError) as refused:
        source.survey()
    assert str(refused.value) == f"{source.file.shown}: a line of more than 16 MiB; give a CSV with one image a line"


def test_c1_a_path_that_is_no_readable_file_is_refused() -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    expected = {
        "nowhere.csv": "nowhere.csv: not found; check the path",
        "folder": "folder: is a folder; give a CSV",
        "pipe": "pipe: is no regular file, and it is read twice; save it to a file first, or give - and pipe it in",
    }
    for name, message in expected.items():
        with pytest.raises(UsageError) as refused:
            CsvSource(Path(name))
        assert str(refused.value) == message


@pytest.mark.usefixtures("nobody_special")
def test_c1_a_file_of_somebody_else_is_refused() -> None:
    path = write("path\na.jpg\n")
    path.chmod(0)
    with pytest.raises(UsageError, match=r"^images\.csv: permission denied; make it readable for this user$"):
        CsvSource(path)


def test_named_columns_must_exist() -> None:
    path = write("photo,what\na.jpg,cat\n")
    wrong = {
        ("Photo", None): "no column 'Photo'; columns found: 'photo', 'what'; --image-column photo?",
        ("photo", "wha"): "no column 'wha'; columns found: 'photo', 'what'; --prompt-column what?",
        ("photo", "photo"): "column 'photo' cannot hold both image and prompt; name two columns",
    }
    for (image, prompt), message in wrong.items():
        with pytest.raises(UsageError) as refused:
            CsvSource(path, ReadOptions(image_column=image, prompt_column=prompt))
        assert str(refused.value) == f"images.csv: {message}"


@pytest.mark.parametrize("column", ["path", "image_path", "image", "file", "FileName", " Path "])
def test_the_image_column_is_guessed(column: str) -> None:
    source = CsvSource(write(f"id,{column}\n1,a.jpg\n"))
    assert source.columns.image == column
    assert list(source.rows()) == [NewRow("a.jpg", {"id": "1"})]


LONG_NAME = 256 * "n"
LONG_PATH = "/".join(30 * [200 * "d"])

# What follows the header `path,label`, and the row that becomes of it.
REJECTED: dict[str, tuple[bytes, str, dict[str, str], str, str]] = {
    "C6 Latin-1 path": (
        b"caf\xe9.jpg,x",
        r"caf\xe9.jpg",
        {"label": "x"},
        "bad_row",
        "column 'path' is not valid UTF-8; correct the cell",
    ),
    "C6 Latin-1 cell": (
        b"a.jpg,caf\xe9",
        "a.jpg",
        {"label": r"caf\xe9"},
        "bad_row",
        "column 'label' is not valid UTF-8; correct the cell",
    ),
    "C10 NUL": (
        b"a\0.jpg,x",
        r"a\x00.jpg",
        {"label": "x"},
        "bad_path",
        r"the path holds \x00, which is no text; rename the file",
    ),
    "C10 NUL elsewhere": (
        b"a.jpg,x\0",
        "a.jpg",
        {"label": r"x\x00"},
        "bad_row",
        "NUL character in column 'label'; remove it",
    ),
    "C10 escape": (
        b"a\x1b[2J.jpg,x",
        r"a\x1b[2J.jpg",
        {"path": "a\x1b[2J.jpg", "label": "x"},
        "bad_path",
        r"the path holds \x1b, which is no text; rename the file",
    ),
    "C11 too few": (b"a.jpg", "a.jpg", {}, "bad_row", "1 column, the header has 2"),
    "C11 too many": (b"a.jpg,x,y", "a.jpg", {"label": "x"}, "bad_row", "3 columns, the header has 2"),
    "C14 empty": (
        b",x",
        "",
        {"label": "x"},
        "bad_path",
        "empty path; give the image's path, or remove the row",
    ),
    "C14 blank": (
        b"  ,x",
        "  ",
        {"label": "x"},
        "bad_path",
        "empty path; give the image's path, or remove the row",
    ),
    "C19 http": (
        b"http://h/a.jpg,x",
        "http://h/a.jpg",
        {"label": "x"},
        "bad_path",
        "'http://' is a URL that is not read; give the path of a local copy, or s3://, gs://, az:// or https://",
    ),
    "C19 bucket": (
        b"s3://bucket,x",
        "s3://bucket",
        {"label": "x"},
        "bad_path",
        "the URL names no object; write it like s3://bucket/folder/a.jpg",
    ),
    "C19 dots": (
        b"s3://b/a/../../c/d.jpg,x",
        "s3://b/a/../../c/d.jpg",
        {"label": "x"},
        "bad_path",
        "the URL holds an empty name, . or .., which no bucket is asked for; give the object another key",
    ),
    "C19 user": (
        b"s3://me:canary@b/a.jpg,x",
        "s3://***@b/a.jpg",
        {"label": "x"},
        "bad_path",
        "the URL holds a user or a password; leave them out, and give them to the workers' environment",
    ),
    "C19 signature": (
        b"https://h/a.jpg?X-Amz-Signature=canary&x=1,x",
        "https://h/a.jpg?***",
        {"label": "x"},
        "bad_path",
        "the URL holds a signature or a token, which ends before a run may; use s3://, gs:// or az://",
    ),
    "C19 key": (
        f"s3://b/{'k' * 1025},x".encode(),
        f"s3://b/{'k' * 993}...",
        {"path": f"s3://b/{'k' * 1025}", "label": "x"},
        "bad_path",
        "key of 1025 bytes; shorten it to 1024",
    ),
    "C19 file": (
        b"FILE:///a.jpg,x",
        "FILE:///a.jpg",
        {"label": "x"},
        "bad_path",
        "'FILE://' is a URL that is not read; give the path of a local copy, or s3://, gs://, az:// or https://",
    ),
    "C19 share": (
        b"\\\\host\\share\\a.jpg,x",
        "\\\\host\\share\\a.jpg",
        {"label": "x"},
        "bad_path",
        "a network share is no path; mount it and give the path below its mount",
    ),
    "C20 long name": (
        f"d/{LONG_NAME},x".encode(),
        f"d/{LONG_NAME}",
        {"label": "x"},
        "bad_path",
        "the path holds a name of 256 bytes; shorten it to 255",
    ),
    "C20 long name in few characters": (
        ("d/" + 100 * "照" + ",x").encode(),
        "d/" + 100 * "照",
        {"label": "x"},
        "bad_path",
        "the path holds a name of 300 bytes; shorten it to 255",
    ),
    "C20 long path": (
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


def test_c5_bom_crlf_quotes_and_line_breaks_in_cells_are_read() -> None:
    rows = rows_of(b'\xef\xbb\xbfpath,label\r\n"a, b.jpg","say ""hi"""\r\n\r\n"c.jpg","two\r\nlines"\r\n')
    assert rows == [NewRow("a, b.jpg", {"label": 'say "hi"'}), NewRow("c.jpg", {"label": "two\r\nlines"})]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_c12_any_line_end_will_do_and_blank_lines_are_no_rows(end: str) -> None:
    content = end.join(["", "path,label", "a.jpg,1", "", "   ", "b.jpg,2", ""])
    source = CsvSource(write(content))
    assert list(source.rows()) == [NewRow("a.jpg", {"label": "1"}), NewRow("b.jpg", {"label": "2"})]
    assert source.survey().rows == 2


def test_c15_two_spellings_of_a_path_become_one_and_keep_their_cells() -> None:
    rows = rows_of("path\nb/a.jpg\n./b//x/../a.jpg\n//b/a.jpg\n.hidden/a.jpg\n")
    assert rows == [
        NewRow("b/a.jpg"),
        NewRow("b/a.jpg", {"path": "./b//x/../a.jpg"}),
        NewRow("/b/a.jpg", {"path": "//b/a.jpg"}),
        NewRow(".hidden/a.jpg"),
    ]


def test_c16_no_path_leaves_a_given_root() -> None:
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


def test_without_a_root_paths_start_at_the_csv_and_may_go_anywhere() -> None:
    source = CsvSource(write("path\n../a.jpg\n/b.jpg\n"))
    assert (source.root, source.confined) == (str(Path.cwd()), False)
    assert source.path == Path.cwd() / "images.csv"
    assert [row.path for row in source.rows()] == ["../a.jpg", "/b.jpg"]


def test_the_root_of_the_file_system_confines_nothing() -> None:
    source = CsvSource(write("path\n/etc/a.jpg\n"), ReadOptions(root=Path("/")))
    assert list(source.rows()) == [NewRow("/etc/a.jpg")]


def test_c21_cells_that_look_like_formulas_stay_as_they_are() -> None:
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


def test_c25_prompts_of_a_cell_are_split_trimmed_and_counted_once() -> None:
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


def test_skip_goes_on_where_an_earlier_reading_stopped() -> None:
    source = CsvSource(write("path\n" + "".join(f"{i}.jpg\n\n" for i in range(2500)) + ",x\n"))
    everything = list(source.rows())
    assert len(everything) == source.survey().rows == 2501
    for skip in (0, 1, 999, 1000, 2500, 2501, 9999):
        assert list(source.rows(skip)) == everything[skip:]
    assert everything[-1].rejected == ("bad_row", "images.csv:5002: 2 columns, the header has 1")


BEFORE = b"path,label\na.jpg,1\nb.jpg,2"
CONTINUES = {
    "the same": (BEFORE, BEFORE, True),
    "appended": (BEFORE + b"\n", BEFORE + b"\nc.jpg,3\n", True),
    "appended after CRLF": (BEFORE + b"\r\n", BEFORE + b"\r\nc.jpg,3\r\n", True),
    "the last line only gets its end": (BEFORE, BEFORE + b"\r\n", True),
    "appended after an end": (BEFORE, BEFORE + b"\nc.jpg,3\n", True),
    "the last line goes on": (BEFORE, BEFORE + b"2\nc.jpg,3\n", False),
    "edited": (BEFORE + b"\n", BEFORE.replace(b"a.jpg", b"x.jpg") + b"\nc.jpg,3\n", False),
    "shortened": (BEFORE + b"\n", BEFORE[:-8] + b"\n", False),
    "larger than a block": (BEFORE + 9000 * b"\nb.jpg,2", BEFORE + 20000 * b"\nb.jpg,2", True),
    "edited far away": (BEFORE + 9000 * b"\nb.jpg,2", BEFORE + 8999 * b"\nb.jpg,2" + 9 * b"\nb.jpg,3", False),
}


@pytest.mark.parametrize(("before", "after", "continues"), CONTINUES.values(), ids=CONTINUES)
def test_c23_growth_is_told_from_an_edit(before: bytes, after: bytes, continues: bool) -> None:
    known = CsvSource(write(before)).survey()
    assert (known.size, known.continues) == (len(before), False)
    survey = CsvSource(write(after)).survey(known.size, known.sha256)
    assert survey.continues is continues
    assert survey.mtime_ns == Path("images.csv").stat().st_mtime_ns


CHANGED = r"^images\.csv changed while it was read; run the same command again$"


@pytest.mark.parametrize("change", ["append", "truncate", "replace", "delete"])
def test_c23_a_change_while_rows_are_read_stops_them_at_the_change(change: str) -> None:
    path = write("path\n" + "".join(f"{i}.jpg\n" for i in range(3 * ROWS_PER_LOOK)))
    source = CsvSource(path)
    source.survey()
    rows = source.rows()
    assert next(rows) == NewRow("0.jpg")
    if change == "append":
        with path.open("a") as file:
            file.write('"')
    elif change == "truncate":
        os.truncate(path, 50)
    elif change == "replace":
        Path("new.csv").write_bytes(path.read_bytes())
        Path("new.csv").replace(path)
    else:
        path.unlink()
    read: list[NewRow] = []
    with pytest.raises(UsageError, match=CHANGED):
        read.extend(rows)
    assert read == [NewRow(f"{i}.jpg") for i in range(1, ROWS_PER_LOOK)]  # nothing of what was read after it
    with pytest.raises(UsageError, match=CHANGED):
        source.survey()
    with pytest.raises(UsageError, match=CHANGED):
        next(source.rows())


def test_c22_memory_does_not_grow_with_the_rows() -> None:
    path = Path("images.csv")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"folder/{i:06}.jpg", "x") for i in range(50_000))])
    source = CsvSource(path)
    tracemalloc.start()
    try:
        rows = source.survey().rows
        count = sum(1 for _ in source.rows())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == rows == 50_000
    assert peak < 4_000_000, "50,000 rows at once would take more than 8 MB"


def make(*names: str) -> Path:
    for name in names:
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).touch()
    return Path("photos")


def test_a_folder_is_read_recursively_in_the_order_of_its_paths() -> None:
    names = ["a.jpg", "a/2.PNG", "a/b/1.jpeg", "c.webp", "d.TIF", "e.tiff", "f.bmp"]
    folder = make(*names, "notes.txt", ".git/x.jpg", "a/.hidden.jpg", "out/masks/a.png")
    source = FolderSource(folder, ReadOptions(exclude=Path("photos/out")))
    assert list(source.rows()) == [NewRow(name) for name in sorted(names)]
    assert list(source.rows(5)) == [NewRow("e.tiff"), NewRow("f.bmp")]
    assert (source.columns.names, source.columns.image, source.columns.prompt) == (("path",), "path", None)
    assert (source.root, source.place, source.confined) == (source.place, str(Path.cwd() / "photos"), False)


def test_a_folder_s_survey_counts_and_sees_that_something_was_added() -> None:
    folder = make("a.jpg", "b/c.jpg")
    os.utime(folder / "b", ns=(10**18, 10**18))
    os.utime(folder, ns=(5, 5))
    survey = FolderSource(folder).survey(2, None)
    assert (survey.size, survey.rows, survey.mtime_ns) == (2, 2, 10**18)
    assert (survey.sha256, survey.continues) == (None, False)


def test_symlinked_folders_are_followed_only_if_asked_and_never_in_a_circle() -> None:
    folder = make("a/1.jpg")
    Path("elsewhere").mkdir()
    Path("elsewhere/2.jpg").touch()
    Path("photos/b").symlink_to(Path("elsewhere").absolute())
    Path("photos/a/loop").symlink_to(folder.absolute())
    Path("photos/gone.jpg").symlink_to("nowhere.jpg")
    assert [row.path for row in FolderSource(folder).rows()] == ["a/1.jpg", "gone.jpg"]
    followed = FolderSource(folder, ReadOptions(follow_symlinks=True))
    assert [row.path for row in followed.rows()] == ["a/1.jpg", "b/2.jpg", "gone.jpg"]


def test_names_that_no_database_stores_are_rejected_rows() -> None:
    folder = make("a.jpg", "b\n.jpg")
    Path(os.fsdecode(b"photos/caf\xe9.jpg")).touch()
    _, line_break, latin = FolderSource(folder).rows()
    assert line_break.rejected == (
        "bad_path",
        r"photos/b\n.jpg: the path holds \n, which is no text; rename the file",
    )
    assert latin == NewRow(
        r"caf\xe9.jpg",
        rejected=("bad_path", r"photos/caf\xe9.jpg: the path holds \xe9, which is no text; rename the file"),
    )


def test_a_folder_without_images_is_refused() -> None:
    make("notes.txt", ".cache/a.jpg")
    Path("file.jpg").touch()
    Path("empty").mkdir()
    advice = "give a folder with JPEG, PNG, WEBP, TIFF, BMP, GIF or AVIF files"
    left_out = "1 hidden (.cache/), 1 not an image (notes.txt)"
    expected = {
        "photos": f"photos: no images in it or below it; left out: {left_out}; {advice}; if such files name images, "
        "give 'photos/**/*.txt'",
        "empty": f"empty: no images in it or below it; {advice}",
        "nowhere": "nowhere: not found; check the path",
        "file.jpg": "file.jpg: is no folder; check the path",
    }
    for name, message in expected.items():
        with pytest.raises(UsageError) as refused:
            FolderSource(Path(name))
        assert str(refused.value) == message


def test_a_folder_cannot_be_its_own_output() -> None:
    with pytest.raises(UsageError, match=r"^photos: is the output folder too; choose another with -o$"):
        FolderSource(make("a.jpg"), ReadOptions(exclude=Path("photos")))


@pytest.mark.usefixtures("nobody_special")
def test_a_folder_that_may_not_be_read_is_told_and_only_at_the_top_refused() -> None:
    folder = make("a.jpg", "private/b.jpg", "private/c.jpg", "private.txt")
    Path("photos/private.txt").chmod(0)
    private = Path("photos/private")
    private.chmod(0)
    try:
        source = FolderSource(folder)
        assert source.survey().rows == 1
        assert source.left_out == (LeftOut("unreadable", 2, "private.txt"),)
        assert [row.path for row in source.rows()] == ["a.jpg"]
        with pytest.raises(UsageError, match=r"^photos/private: permission denied; make it readable for this user$"):
            FolderSource(private)
    finally:
        private.chmod(0o700)


def test_a_folder_that_vanishes_while_it_is_read_is_told() -> None:
    folder = make("a.jpg", "b/c.jpg")
    rows = FolderSource(folder).rows()
    next(rows)
    Path("photos/b/c.jpg").unlink()
    Path("photos/b").rmdir()
    with pytest.raises(UsageError, match=r"^photos/b: not found; check the path$"):
        next(rows)
