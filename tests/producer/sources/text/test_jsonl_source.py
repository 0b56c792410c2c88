"""JSON Lines as people have them: types are kept, a bad line is a rejected row with its number, no JSON is refused."""

import gzip
import json
import subprocess
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.kinds import open_source
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions
from producer.sources.text.jsonl_source import COLUMNS_AT_MOST, JsonLinesSource
from workers.errors import UsageError


def opened(content: str | bytes, options: ReadOptions = DEFAULT_OPTIONS, name: str = "a.jsonl") -> JsonLinesSource:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    source = open_source(Path(name), options)
    assert isinstance(source, JsonLinesSource)
    return source


def test_values_keep_their_types_and_the_names_of_all_objects_are_the_columns() -> None:
    source = opened(
        '{"path": "a.jpg", "n": 1, "x": 1, "ok": true, "tags": ["p", null], "none": null}\n\n'
        '{"path": "./b.jpg", "n": 2, "x": 2.5, "note": "ü\\n", "id": 18446744073709551615}\n'
    )
    source.survey()
    assert source.columns.types == {
        "path": "string",
        "n": "int64",
        "x": "double",
        "ok": "bool",
        "tags": "json",
        "none": "string",
        "note": "string",
        "id": "json",  # it has more than 64 bits
    }
    assert list(source.rows()) == [
        NewRow("a.jpg", {"n": 1, "x": 1, "ok": True, "tags": ["p", None], "none": None}),
        NewRow("b.jpg", {"path": "./b.jpg", "n": 2, "x": 2.5, "note": "ü\n", "id": 18446744073709551615}),
    ]


def test_names_that_come_late_are_columns_and_never_change_where_the_paths_are() -> None:
    source = opened('{"image": "a.jpg"}\n' * 200 + '{"image": "b.jpg", "path": "late"}\n')
    before = source.columns
    assert before.names == ("image",)
    assert source.survey().rows == 201
    assert (source.columns.names, source.columns.image) == (("image", "path"), "image")


BAD = {
    "cut off": (
        '{"path": "c.jpg", "n":',
        '{"path": "c.jpg", "n":',
        "bad_row",
        'no JSON object: Expecting value at character 23, near \'jpg", "n":\'',
    ),
    "no object": ("[1, 2]", "[1, 2]", "bad_row", 'no JSON object; write an object such as {"path": "a.jpg"}'),
    "a text": ('"c.jpg"', '"c.jpg"', "bad_row", 'no JSON object; write an object such as {"path": "a.jpg"}'),
    "no path": ('{"n": 1}', "", "bad_path", "empty path; give the image's path, or remove the row"),
    "path is null": ('{"path": null}', "null", "bad_path", "the path is null; give it as text"),
    "path is nested": ('{"path": {"uri": "c"}}', '{"uri":"c"}', "bad_path", "the path is an object; give it as text"),
    "path is a list": ('{"path": ["c"]}', '["c"]', "bad_path", "the path is a list; give it as text"),
    "half a character": (
        '{"path": "c.jpg", "n": "\\ud800"}',
        "c.jpg",
        "bad_row",
        "column 'n' is not valid UTF-8; correct the cell",
    ),
    "half a character in a list": (
        '{"path": "c.jpg", "n": ["\\ud800"]}',
        "c.jpg",
        "bad_row",
        "column 'n' is not valid UTF-8; correct the cell",
    ),
    "NUL": ('{"path": "c.jpg", "n": "\\u0000"}', "c.jpg", "bad_row", "NUL character in column 'n'; remove it"),
    "escape": (
        '{"path": "\\u001bc"}',
        "\\x1bc",
        "bad_path",
        "the path holds \\x1b, which is no text; rename the file or its folder",
    ),
    "URL": ('{"path": "gopher://c"}', "gopher://c", "bad_path", "'gopher://' is a URL that is not read; give "),
    "deep": ("[" * 100_000, "[" * 1000 + "...", "bad_row", "no JSON object that can be read: too deeply nested"),
    "long number": ('{"n": ' + "9" * 5000 + "}", '{"n": ' + "9" * 994 + "...", "bad_row", "no JSON object that can be"),
}


@pytest.mark.parametrize(("line", "path", "error_class", "fault"), BAD.values(), ids=BAD)
def test_a_bad_line_is_a_rejected_row_with_its_number(line: str, path: str, error_class: str, fault: str) -> None:
    source = opened(f'{{"path": "a.jpg", "n": 1}}\n\n{line}\n{{"path": "b.jpg", "n": 2}}\n')
    assert source.survey().rows == 3
    first, bad, last = source.rows()
    assert [first.rejected, last.rejected] == [None, None]
    assert bad.rejected is not None
    assert (bad.path, bad.rejected[0]) == (path, error_class)
    assert bad.rejected[1].startswith(f"a.jsonl:3: {fault}")


def test_prompts_are_a_text_with_bars_or_a_list_of_texts() -> None:
    lines = ['"cat| red dog"', '["cat", "red|dog", "cat"]', "null", "[]", '""', "7", '["cat", 7]', '["cat", " "]']
    source = opened(
        "".join(f'{{"path": "a.jpg", "what": {what}}}\n' for what in lines), ReadOptions(prompt_column="what")
    )
    rows = list(source.rows())
    assert [row.prompts for row in rows[:5]] == [("cat", "red dog"), ("cat", "red|dog"), None, None, None]
    assert [row.rejected and row.rejected[1].partition(": ")[2] for row in rows[5:]] == [
        "the prompt is a number; give a text, or a list of texts",
        "the prompt is a list; give a text, or a list of texts",
        "empty prompt; write a word, or remove it",
    ]


def test_one_json_array_is_refused_with_a_command_that_makes_lines_of_it() -> None:
    rows = [{"path": "a.jpg", "n": 1}, {"path": "ü b.jpg", "n": None}]
    Path("a b.json").write_text(json.dumps(rows))
    for name, content in {
        "a b.json": json.dumps(rows).encode(),
        "c.json.gz": gzip.compress(json.dumps(rows).encode()),
    }.items():
        Path(name).write_bytes(content)
        with pytest.raises(UsageError) as refused:
            open_source(Path(name), ReadOptions())
        told, _, command = str(refused.value).partition("; write one object a line: ")
        assert told == f"{name}: is one JSON array"
        subprocess.run(command, shell=True, check=True)
        made = command.rpartition("> ")[2]
        assert [row.path for row in open_source(Path(made), ReadOptions()).rows()] == ["a.jpg", "ü b.jpg"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", " has no rows: write one image a line"),
        ("\n \n", " has no rows: write one image a line"),
        ('{"path": \n', ":1: no JSON object: Expecting value at character 9, near '{\"path\":'"),
        ('{"photo": "a.jpg"}\n', ": no column of image paths; columns found: 'photo'; name it with --image-column"),
        ('{"path": "a.jpg", "SAM3_x": 1}\n', ": column 'SAM3_x' has a name of our results; rename or remove it"),
        (b'{"path": "caf\xe9.jpg"}\n', ':1: \'{"path": "caf\\xe9.jpg"}\' is not UTF-8; --encoding cp1252 reads it as'),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_before_any_row(content: str | bytes, fault: str) -> None:
    with pytest.raises(UsageError) as refused:
        opened(content).survey()
    assert str(refused.value).startswith(f"a.jsonl{fault}")


def test_names_that_are_values_are_refused_before_they_fill_the_memory() -> None:
    lines = "".join(f'{{"path": "a.jpg", "{number}": 1}}\n' for number in range(COLUMNS_AT_MOST + 1))
    with pytest.raises(UsageError, match="its objects have more than 1,000 names; give each the same names"):
        opened(lines).survey()


def test_a_file_without_a_name_of_its_kind_is_known_by_its_first_character_and_that_is_told() -> None:
    assert opened('{"path": "a.jpg"}', name="rows").told == "as JSON Lines"
    assert opened('\n { "path": "a.jpg"}', name="rows").told == "as JSON Lines"
    assert opened('{"path": "a.jpg"}').told == ""
    assert opened('{"path": "a.jpg"}'.encode("utf-16"), name="b.ndjson").told == "as UTF-16-LE"


def test_an_object_with_a_name_twice_is_rejected_as_no_value_is_surely_meant() -> None:
    source = opened(
        '{"path": "a.jpg", "x": {"y": 1, "z": {"y": 1}}, "note": "a: \\"b\\": c"}\n'
        '{"path": "b.jpg", "path": "c.jpg"}\n'
        '{"path" : "b.jpg", "x": 1, "x": 1}\n'
        '{"path": "d.jpg", "x": {"y": 1, "y": 2}}\n'
    )
    assert source.survey().rows == 4
    rejected = [row.rejected and row.rejected[1] for row in source.rows()]
    assert rejected == [
        None,
        "a.jsonl:2: the name 'path' is there twice; remove one",
        "a.jsonl:3: the name 'x' is there twice; remove one",
        None,  # what is inside of a cell is the user's
    ]


def test_lines_that_end_as_on_an_old_mac_have_their_numbers() -> None:
    *good, bad = opened('{"path":"a.jpg"}\r{"path":"b.jpg"}\r{"path":1}\r').rows()
    assert [row.path for row in good] == ["a.jpg", "b.jpg"]
    assert bad.rejected is not None
    assert bad.rejected[1].startswith("a.jsonl:3: the path is a number")
