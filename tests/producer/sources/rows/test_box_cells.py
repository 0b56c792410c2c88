"""Boxes of rows: from a CSV as JSON text, from JSON Lines and Parquet as lists too; a bad one rejects its row alone."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from db.intake import NewRow
from db.values import GivenBox
from producer.sources.kinds import open_source
from producer.sources.source import ReadOptions
from workers.errors import UsageError

ONE, TWO = (1.0, 2.0, 30.0, 40.5, True), (5.0, 6.0, 7.0, 8.0, True)
NOT_TWO = (5.0, 6.0, 7.0, 8.0, False)
FORM = "write [[x1, y1, x2, y2], ...], or those in an object with positive and negative"
NUMBERS = "a box holds what is no finite number; write four numbers of pixels, x1, y1, x2, y2"
BOXES = ReadOptions(box_column="boxes")


def csv_rows(rows: Sequence[Sequence[str]], options: ReadOptions = BOXES) -> list[NewRow]:
    with open("images.csv", "w", newline="") as file:
        csv.writer(file).writerows((("path", "boxes", "what"), *rows))
    return list(open_source(Path("images.csv"), options).rows())


def jsonl_rows(values: Sequence[Any], options: ReadOptions = BOXES) -> list[NewRow]:
    lines = [json.dumps({"path": "a.jpg", "boxes": value}) for value in values]
    Path("images.jsonl").write_text("\n".join(lines))
    return list(open_source(Path("images.jsonl"), options).rows())


GOOD: dict[str, tuple[GivenBox, ...] | None] = {
    "": None,
    " ": None,
    "null": None,
    "[]": None,
    '{"positive": []}': None,
    '{"positive": null, "negative": []}': None,
    "[[1, 2, 30, 40.5]]": (ONE,),
    "[[1, 2, 30, 40.5], [5, 6.0, 7e0, 8]]": (ONE, TWO),
    '{"negative": [[5, 6, 7, 8]], "positive": [[1, 2, 30, 40.5]]}': (ONE, NOT_TWO),
    '{"negative": [[5, 6, 7, 8]]}': (NOT_TWO,),
}


def test_a_cell_of_a_csv_is_the_json_of_its_boxes_and_comes_back_as_it_was() -> None:
    rows = csv_rows([("a.jpg", cell, "") for cell in GOOD])
    assert [row.boxes for row in rows] == list(GOOD.values())
    assert [row.cells for row in rows] == [{"boxes": cell, "what": ""} for cell in GOOD]
    assert {row.rejected for row in rows} == {None}


def test_json_lines_have_boxes_as_text_or_as_lists_and_objects() -> None:
    values = [json.loads(cell) if cell.strip() else None for cell in GOOD]
    assert [row.boxes for row in jsonl_rows(values)] == list(GOOD.values())
    assert [row.boxes for row in jsonl_rows(list(GOOD))] == list(GOOD.values())


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[[1.0, 2.0, 30.0, 40.5]], None, []], pa.list_(pa.list_(pa.float64(), 4))),
        pa.array([[[1, 2, 30, 40.5]], None, []], pa.large_list(pa.list_(pa.float32()))),
        pa.array(["[[1, 2, 30, 40.5]]", None, ""]),
        pa.array([{"positive": [[1.0, 2.0, 30.0, 40.5]], "negative": None}, None, {"positive": [], "negative": []}]),
    ],
    ids=["fixed lists", "lists", "text", "structs"],
)
def test_parquet_has_boxes_as_text_or_as_lists_and_structs(column: pa.Array) -> None:
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "boxes": column}), "images.parquet")
    assert [row.boxes for row in open_source(Path("images.parquet"), BOXES).rows()] == [(ONE,), None, None]


BAD = {
    "[[1, 2, 3, 4]": f"the boxes are no JSON; {FORM}",
    "1 2 3 4": f"the boxes are no JSON; {FORM}",
    "[" * 100_000: f"the boxes are no JSON; {FORM}",
    "7": f"the boxes are no list; {FORM}",
    "[1, 2, 3, 4]": f"a box is no list of four numbers; {FORM}",
    "[[1, 2, 3]]": f"a box is no list of four numbers; {FORM}",
    '{"boxes": [[1, 2, 3, 4]], "labels": [1]}': f"the boxes are an object with boxes, labels; {FORM}",
    '{"positive": {"x": 1}}': f"the boxes are no list; {FORM}",
    "[[1, 2, NaN, 4]]": NUMBERS,
    "[[1, 2, 1e400, 4]]": NUMBERS,
    f"[[1, 2, {'9' * 400}, 4]]": NUMBERS,
    '[[1, 2, "3", 4]]': NUMBERS,
    "[[0, 0, true, 4]]": NUMBERS,
    "[[1, 2, 1, 4]]": "the box 1, 2, 1, 4 has no area; write x1, y1, x2, y2 with x1 below x2 and y1 below y2",
    "[[9, 2, 10, 2]]": "the box 9, 2, 10, 2 has no area; write x1, y1, x2, y2 with x1 below x2 and y1 below y2",
    "[[50, 60, 20, 30]]": "the box 50, 60, 20, 30 has no area; write x1, y1, x2, y2 with x1 below x2 and y1 below y2",
    json.dumps([[1, 2, 3, 4]] * 101): "101 boxes; give at most 100",
}


def test_a_bad_box_rejects_its_row_with_its_number_and_no_other() -> None:
    rows = csv_rows([(f"{number}.jpg", cell, "") for number, cell in enumerate([*BAD, "[[1, 2, 30, 40.5]]"])])
    *bad, good = rows
    assert (good.rejected, good.boxes) == (None, (ONE,))
    expected = [("bad_box", f"images.csv:{line}: {fault}") for line, fault in enumerate(BAD.values(), start=2)]
    assert [row.rejected for row in bad] == expected
    assert {row.boxes for row in bad} == {None}


def test_a_bad_box_of_json_lines_and_of_parquet_is_named_by_its_row() -> None:
    _, bad = jsonl_rows([[[1, 2, 3, 4]], [[1, 2, None, 4]]])
    assert bad.rejected == ("bad_box", f"images.jsonl:2: {NUMBERS}")
    columns = {"path": ["a.jpg", "b.jpg"], "boxes": pa.array([[[1.0, 2.0, 3.0, 4.0]], [[float("nan"), 2.0, 3.0, 4.0]]])}
    pq.write_table(pa.table(columns), "images.parquet")
    _, bad = open_source(Path("images.parquet"), BOXES).rows()
    assert bad.rejected == ("bad_box", f"images.parquet: row 2: {NUMBERS}")


def test_without_a_prompt_boxes_alone_are_the_prompt_visual_as_in_the_library() -> None:
    options = ReadOptions(needs_prompt=True, prompt_column="what", box_column="boxes")
    only_not, rows = '{"negative": [[5, 6, 7, 8]]}', [("a.jpg", "[[1, 2, 30, 40.5]]", "")]
    rows += [("b.jpg", "[[1, 2, 30, 40.5]]", "cat"), ("c.jpg", "", "cat"), ("d.jpg", only_not, "cat")]
    *good, only_negative, nothing = csv_rows([*rows, ("e.jpg", only_not, ""), ("f.jpg", "", "")], options)
    assert [row.prompts for row in good] == [("visual",), ("cat",), ("cat",), ("cat",)]
    assert [row.boxes for row in good] == [(ONE,), (ONE,), None, (NOT_TWO,)]
    said = "only negative boxes and no prompt; add what to look for"
    assert only_negative.rejected == ("bad_box", f"images.csv:6: {said}")
    lacks = "no prompt in column 'what' and no boxes in column 'boxes'; write one, or give --prompt"
    assert nothing.rejected == ("prompt", f"images.csv:7: {lacks}")


def test_boxes_alone_may_be_all_that_an_input_says() -> None:
    options = ReadOptions(needs_prompt=True, box_column="boxes")
    good, bad = jsonl_rows([[[1, 2, 30, 40.5]], None], options)
    assert (good.prompts, good.boxes) == (("visual",), (ONE,))
    assert bad.rejected == ("prompt", "images.jsonl:2: no boxes in column 'boxes'; write one, or give --prompt")


def test_with_a_prompt_for_all_rows_boxes_belong_to_it() -> None:
    [row] = csv_rows([("a.jpg", "[[1, 2, 30, 40.5]]", "")])
    assert (row.prompts, row.boxes) == (None, (ONE,))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (ReadOptions(box_column="box"), "no column 'box'; columns found: 'path', 'boxes', 'what'; --box-column boxes?"),
        (ReadOptions(box_column="path"), "column 'path' cannot hold both image and boxes; name two columns"),
        (
            ReadOptions(box_column="what", prompt_column="what"),
            "column 'what' cannot hold both prompt and boxes; name two columns",
        ),
    ],
)
def test_a_column_of_boxes_has_to_be_one_of_its_own(options: ReadOptions, fault: str) -> None:
    with pytest.raises(UsageError) as refused:
        csv_rows([("a.jpg", "", "")], options)
    assert str(refused.value) == f"images.csv: {fault}"


def test_a_list_of_paths_and_a_folder_have_no_column_of_boxes() -> None:
    Path("paths.txt").write_text("a.jpg\n")
    with pytest.raises(UsageError, match="no column"):
        open_source(Path("paths.txt"), BOXES)
    Path("photos").mkdir()
    with pytest.raises(UsageError, match="is a folder: --prompt-column, --box-column, --image-column and"):
        open_source(Path("photos"), BOXES)
