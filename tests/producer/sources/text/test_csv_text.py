"""CSVs as programs of many countries write them: read and told, or refused with what to type."""

import codecs
import os
from dataclasses import replace
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.source import ReadOptions, Survey
from producer.sources.text.csv_source import CsvSource
from tests.producer.sources.conftest import write
from workers.errors import UsageError

ROWS = [NewRow("fotos/größe, 1.jpg", {"label": "x"}), NewRow("写真/2.jpg", {"label": "y;z"})]
EURO = [NewRow("fotos/größe, 1.jpg", {"label": "x"}), NewRow("fotos/2 €.jpg", {"label": "y;z"})]


def table(rows: list[NewRow], delimiter: str = ",", end: str = "\n") -> str:
    cells = [("path", "label"), *((row.path, (row.cells or {})["label"]) for row in rows)]
    return "".join(f'"{path}"{delimiter}"{label}"{end}' for path, label in cells)


def opened(content: bytes, encoding: str | None = None, delimiter: str | None = None) -> CsvSource:
    return CsvSource(write(content), ReadOptions(encoding, delimiter))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("delimiter", "words"), [(",", ""), (";", "with semicolons"), ("\t", "with tabs"), ("|", "with bars (|)")]
)
def test_the_delimiter_is_found_in_the_header_and_told(delimiter: str, words: str, end: str) -> None:
    source = opened(table(ROWS, delimiter, end).encode())
    assert list(source.rows()) == ROWS
    assert source.survey().rows == 2
    assert source.text.told == (f"{words} between its cells" if words else "")


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8-sig", ""),
        ("utf-16", "as UTF-16-LE"),
        ("utf-32", "as UTF-32-LE"),
    ],
)
def test_an_encoding_is_known_by_its_mark_and_told(encoding: str, words: str) -> None:
    source = opened(table(ROWS).encode(encoding))
    assert list(source.rows()) == ROWS
    assert source.text.told == words
    big_endian = opened(codecs.BOM_UTF16_BE + table(ROWS, "\t").encode("utf-16-be"))
    assert list(big_endian.rows()) == ROWS
    assert big_endian.text.told == "as UTF-16-BE with tabs between its cells"


@pytest.mark.parametrize(
    "encoding", ["cp1252", "iso8859-15", "mac_roman", "utf-16-le", "UTF_16_BE", "cp1140", "gb18030"]
)
def test_any_other_encoding_is_read_if_it_is_given(encoding: str) -> None:
    source = opened(table(EURO).encode(encoding), encoding=encoding)
    assert source.survey().rows == 2
    assert list(source.rows()) == EURO
    assert source.text.told == ""


def test_bytes_that_are_no_text_reject_their_rows_only_if_an_encoding_is_given() -> None:
    content = b"path\na.jpg\ncaf\xe9.jpg\nc.jpg\n"
    with pytest.raises(UsageError, match=r"^images\.csv:3: 'caf\\xe9\.jpg' is not UTF-8; --encoding cp1252 reads it"):
        opened(content).survey()
    source = opened(content, encoding="utf8")
    assert source.survey().rows == 3
    assert [row.rejected is None for row in source.rows()] == [True, False, True]
    assert [row.path for row in opened(content, encoding="cp1252").rows()] == ["a.jpg", "café.jpg", "c.jpg"]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_that_excel_reads_is_read_and_is_no_row(first: str) -> None:
    source = opened(f"{first}\r\npath;label\r\na.jpg;x\r\n;y\r\n".encode())
    good, bad = source.rows()
    assert good == NewRow("a.jpg", {"label": "x"})
    assert bad.rejected == ("bad_path", "images.csv:4: empty path; give the image's path, or remove the row")
    assert source.survey().rows == 2


def test_excel_s_line_decides_between_two_that_would_do() -> None:
    content = b"sep=;\npath,x;path\na,1;b.jpg\n"
    assert list(opened(content).rows()) == [NewRow("b.jpg", {"path,x": "a,1"})]
    assert [row.path for row in opened(b"path|x\na.jpg|1\n", delimiter="|").rows()] == ["a.jpg"]


def test_a_delimiter_that_is_given_goes_before_all_others() -> None:
    source = opened(b"sep=;\npath^label;x\na;b.jpg^1\n", delimiter="^")
    assert list(source.rows()) == [NewRow("a;b.jpg", {"label;x": "1"})]
    assert source.text.told == ""
    for spelled in ("tab", "\\t", "\t"):
        assert list(opened(b"path\tn,m\na.jpg\t1\n", delimiter=spelled).rows()) == [NewRow("a.jpg", {"n,m": "1"})]


def test_a_header_with_commas_in_its_names_is_read_by_the_delimiter_that_finds_the_paths() -> None:
    source = opened(b"path;size, cm;label, if any\na.jpg;1,5;x\n")
    assert list(source.rows()) == [NewRow("a.jpg", {"size, cm": "1,5", "label, if any": "x"})]


def test_one_column_may_hold_any_delimiter() -> None:
    assert [row.path for row in opened(b"path\na;b.jpg\nc|d.jpg\n").rows()] == ["a;b.jpg", "c|d.jpg"]


@pytest.mark.parametrize(
    ("encoding", "delimiter", "content", "message"),
    [
        (
            "klingon",
            None,
            b"path\na\n",
            "--encoding 'klingon': Python knows no such encoding of text; give one such as ",
        ),
        ("base64", None, b"path\na\n", "--encoding 'base64': Python knows no such encoding of text; give one such as "),
        (
            "cp1252",
            None,
            b"\xef\xbb\xbfpath\na\n",
            "images.csv: begins with the mark of UTF-8 text; leave out --encoding",
        ),
        (None, ";;", b"path\na\n", "--delimiter ';;': give one character, such as ';', or tab"),
        (None, '"', b"path\na\n", "--delimiter '\"': give one character, such as ';', or tab"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    encoding: str | None, delimiter: str | None, content: bytes, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        opened(content, encoding, delimiter).survey()
    assert str(refused.value).startswith(message)


def test_rows_of_nothing_but_delimiters_are_blank() -> None:
    source = opened(b",,\npath,label\n,\na.jpg,x\n , \n,,,\n,y\n" + 1237 * b",\n")
    good, bad = source.rows()
    assert (good, bad.rejected and bad.rejected[0]) == (NewRow("a.jpg", {"label": "x"}), "bad_path")
    assert source.survey().rows == 2


def test_blanks_around_cells_do_not_count_and_stay_in_the_cells() -> None:
    csv = write(b"n, path , what\n1, a.jpg ,cat\n2,\tb.jpg,dog\n3, \xc2\xa0c.jpg,x\n")
    source = CsvSource(csv, ReadOptions(prompt_column="what"))
    assert (source.columns.image, source.columns.prompt) == (" path ", " what")
    assert [(row.path, row.cells, row.prompts) for row in source.rows()] == [
        ("a.jpg", {"n": "1", " path ": " a.jpg ", " what": "cat"}, ("cat",)),
        ("b.jpg", {"n": "2", " path ": "\tb.jpg", " what": "dog"}, ("dog",)),
        ("c.jpg", {"n": "3", " path ": " \u00a0c.jpg", " what": "x"}, ("x",)),
    ]
    assert CsvSource(Path("images.csv"), ReadOptions(image_column="path")).columns.image == " path "


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "shift_jis", "cp1140"])
def test_a_file_continues_in_any_encoding_only_after_a_whole_row(encoding: str) -> None:
    def surveyed(text: str, known: Survey | None = None) -> Survey:
        source = opened(text.encode(encoding), encoding if encoding[:3] != "utf" else None)
        return source.survey(known.size, known.sha256) if known else source.survey()

    begin = "path,n\na.jpg,1\n"
    known = surveyed(begin)
    assert surveyed(begin, known).continues
    assert surveyed(f"{begin}b.jpg,2\n", known).continues
    assert not surveyed("path,n\nb.jpg,1\nc.jpg,2\n", known).continues
    cut = surveyed(begin[:-1])
    assert surveyed(begin, cut).continues
    assert not surveyed(f"{begin[:-1]}2\n", cut).continues


def test_a_letter_that_holds_the_byte_of_a_line_end_ends_no_row() -> None:
    begin = codecs.BOM_UTF16_BE + "path\na.jpg\nb\u010a".encode("utf-16-be")
    known = opened(begin).survey()
    assert not opened(begin + ".jpg\n".encode("utf-16-be")).survey(known.size, known.sha256).continues


def test_the_same_bytes_read_in_another_way_are_not_the_same_rows() -> None:
    content = b"path;n\na.jpg;1\n"
    source = opened(content)
    known = source.survey()
    assert known.sha256 is not None
    os.utime("images.csv", ns=(known.mtime_ns, known.mtime_ns))
    again = CsvSource(Path("images.csv"))
    assert again.is_still(known.size, known.mtime_ns, known.sha256)
    assert again.survey(known.size, known.sha256).continues
    for reading in (ReadOptions(encoding="cp1252"), ReadOptions(delimiter="n")):
        other = CsvSource(Path("images.csv"), replace(reading, image_column="path;" if reading.delimiter else None))
        assert not other.is_still(known.size, known.mtime_ns, known.sha256)
        assert not other.survey(known.size, known.sha256).continues
