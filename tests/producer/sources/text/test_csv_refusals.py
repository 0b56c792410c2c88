"""A file that is no CSV of images is refused in one line, which says what it is and what to do."""

import io
import os
import zipfile
from pathlib import Path

import pytest

from producer.sources.file import LINE_BYTES
from producer.sources.source import ReadOptions
from producer.sources.text.csv_source import CsvSource
from tests.producer.sources.conftest import write
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


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "images.csv has no data rows: write one image path a line below the header"),
    "header only": ("path\r\n\n  \n", "images.csv has no data rows: write one image path a line below the header"),
    "no image column": (
        "id,img_path,label\n1,a.jpg,x\n",
        "images.csv: no column of image paths; columns found: 'id', 'img_path', 'label'; --image-column img_path?",
    ),
    "nothing likely": (
        "x,y\n1,2\n",
        "images.csv: no column of image paths; columns found: 'x', 'y'; name it with --image-column",
    ),
    "no header": (
        "a.jpg\nb.jpg\n",
        "images.csv: its first line holds 'a.jpg', no column names; put a header above it",
    ),
    "twice": (
        "path,label,path\na.jpg,x,b.jpg\n",
        "images.csv: column 'path' appears 2 times in the header; rename all but one",
    ),
    "unnamed twice": (
        "path,,\na.jpg,,\n",
        "images.csv: columns 2 and 3 have no name in the header; give all but one a name, or remove them",
    ),
    "our names": (
        "path,sam3_status\na.jpg,done\n",
        "images.csv: column 'sam3_status' has a name of our results; rename or remove it",
    ),
    "UTF-16 unmarked": (
        "path\na.jpg\n".encode("utf-16-le"),
        "images.csv: is not UTF-8 text; if it is UTF-16: --encoding utf-16-le",
    ),
    "Latin-1 header": (
        "path,größe\na.jpg,1\n".encode("latin-1"),
        r"images.csv:1: 'gr\xf6\xdfe' is not UTF-8; --encoding cp1252 reads it as 'größe'",
    ),
    "Latin-1 row": (
        'path,label\na.jpg,x\n\nb.jpg,"on\ntwo"\ncafé.jpg,y\n'.encode("latin-1"),
        r"images.csv:6: 'caf\xe9.jpg' is not UTF-8; --encoding cp1252 reads it as 'café.jpg', "
        "--encoding utf-8 rejects only such rows",
    ),
    "no Windows code page": (
        b"path\na\x81.jpg\n",
        r"images.csv:2: 'a\x81.jpg' is not UTF-8; --encoding latin1 reads it as 'a\x81.jpg', "
        "--encoding utf-8 rejects only such rows",
    ),
    "UTF-16 cut": (
        "path\na.jpg\n".encode("utf-16")[:-1],
        "images.csv: is not valid UTF-16-LE; save it again, or give its --encoding",
    ),
    "open quote": (
        'path,label\na.jpg,x\n"b\nc".jpg,"y\n',
        'images.csv:3: text after a closing quote; write a quote inside a cell as ""',
    ),
    "open to the end": (
        'path,label\na.jpg,x\nb.jpg,"y\nc.jpg,z\n',
        'images.csv:3: quote opened and never closed; close it, or write a quote inside a cell as ""',
    ),
    "open over the limit": (
        'path\na.jpg\n"b.jpg\n' + 20000 * "c.jpg\n" + 4000 * "dddddddd.jpg\n",
        'images.csv:3: quote opened and never closed; close it, or write a quote inside a cell as ""',
    ),
    "long cell": (
        "path,note\na.jpg,x\nb.jpg," + 200_000 * "y" + "\n",
        "images.csv:3: cell longer than 131072 characters; shorten it or remove its column",
    ),
    "one endless line": (
        "a" * (1 << 20),
        "images.csv: no line break in its first MiB; give a CSV with one image a line",
    ),
    "semicolons without a column of paths": (
        "img;label\na.jpg;x\n",
        "images.csv: no column of image paths; columns found: 'img', 'label'; --image-column img?",
    ),
    "tabs without a header": (
        "a.jpg\tx\nb.jpg\ty\n",
        "images.csv: its first line holds 'a.jpg', no column names; put a header above it",
    ),
    "sep alone": ("sep=;\n", "images.csv has no data rows: write one image path a line below the header"),
    "gzip": (
        b"\x1f\x8b\x08\0",
        "images.csv: its gzip data are damaged or cut off; copy or make it again",
    ),
    "zip": (b"PK\3\4 images.csv", "images.csv: is zip, not CSV text; unpack it first: unzip images.csv"),
    "xlsx": (
        zipped("xl/workbook.xml", "[Content_Types].xml"),
        f"images.csv: is an Excel workbook, not CSV text; {SAVE}",
    ),
    "xlsx with its list of contents last, and long": (
        zipped("xl/media/photo.jpg", "xl/workbook.xml", "[Content_Types].xml", size=2 << 20),
        f"images.csv: is an Excel workbook, not CSV text; {SAVE}",
    ),
    "xlsx cut": (
        zipped("[Content_Types].xml", "xl/workbook.xml")[:-10],
        f"images.csv: is an Excel workbook, not CSV text; {SAVE}",
    ),
    "ods": (
        zipped(mimetype="application/vnd.oasis.opendocument.spreadsheet"),
        f"images.csv: is an OpenDocument file, not CSV text; {SAVE}",
    ),
    "docx": (
        zipped("word/document.xml", "[Content_Types].xml"),
        f"images.csv: is an Office document, not CSV text; {SAVE}",
    ),
    "parquet": (
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


def test_an_endless_line_is_refused_before_it_fills_the_memory() -> None:
    source = CsvSource(write(b"path\na.jpg\n" + (LINE_BYTES + 100_000) * b"x"))
    with pytest.raises(UsageError) as refused:
        source.survey()
    assert str(refused.value) == f"{source.file.shown}: a line of more than 16 MiB; give a CSV with one image a line"


def test_a_path_that_is_no_readable_file_is_refused() -> None:
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
def test_a_file_of_somebody_else_is_refused() -> None:
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
