"""A CSV of images as people have it: its rows, how it grows, and what it costs to read."""

import csv
import os
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.text.csv_source import CsvSource
from producer.sources.text.text_source import ROWS_PER_LOOK
from tests.memory import traced
from tests.producer.sources.conftest import rows_of, write
from workers.errors import UsageError


@pytest.mark.parametrize("column", ["path", "image_path", "image", "file", "FileName", " Path "])
def test_the_image_column_is_guessed(column: str) -> None:
    source = CsvSource(write(f"id,{column}\n1,a.jpg\n"))
    assert source.columns.image == column
    assert list(source.rows()) == [NewRow("a.jpg", {"id": "1"})]


def test_bom_crlf_quotes_and_line_breaks_in_cells_are_read() -> None:
    rows = rows_of(b'\xef\xbb\xbfpath,label\r\n"a, b.jpg","say ""hi"""\r\n\r\n"c.jpg","two\r\nlines"\r\n')
    assert rows == [NewRow("a, b.jpg", {"label": 'say "hi"'}), NewRow("c.jpg", {"label": "two\r\nlines"})]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_will_do_and_blank_lines_are_no_rows(end: str) -> None:
    content = end.join(["", "path,label", "a.jpg,1", "", "   ", "b.jpg,2", ""])
    source = CsvSource(write(content))
    assert list(source.rows()) == [NewRow("a.jpg", {"label": "1"}), NewRow("b.jpg", {"label": "2"})]
    assert source.survey().rows == 2


def test_without_a_root_paths_start_at_the_csv_and_may_go_anywhere() -> None:
    source = CsvSource(write("path\n../a.jpg\n/b.jpg\n"))
    assert (source.root, source.confined) == (str(Path.cwd()), False)
    assert source.path == Path.cwd() / "images.csv"
    assert [row.path for row in source.rows()] == ["../a.jpg", "/b.jpg"]


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
def test_growth_is_told_from_an_edit(before: bytes, after: bytes, continues: bool) -> None:
    known = CsvSource(write(before)).survey()
    assert (known.size, known.continues) == (len(before), False)
    survey = CsvSource(write(after)).survey(known.size, known.sha256)
    assert survey.continues is continues
    assert survey.mtime_ns == Path("images.csv").stat().st_mtime_ns


CHANGED = r"^images\.csv changed while it was read; run the same command again$"


@pytest.mark.parametrize("change", ["append", "truncate", "replace", "delete"])
def test_a_change_while_rows_are_read_stops_them_at_the_change(change: str) -> None:
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


def test_memory_does_not_grow_with_the_rows() -> None:
    path = Path("images.csv")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"folder/{i:06}.jpg", "x") for i in range(50_000))])
    source = CsvSource(path)
    with traced() as memory:
        rows = source.survey().rows
        count = sum(1 for _ in source.rows())
    assert count == rows == 50_000
    assert memory.peak < 4_000_000, "50,000 rows at once would take more than 8 MB"
