"""Every kind of source goes the whole way: recorded, resumed, grown, edited, moved, and exported with its types."""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.cli import enqueue, export, run, status
from tests.producer.cli.conftest import Shell

Rows = list[dict[str, Any]]
ROWS: Rows = [{"path": f"p/{number}.jpg", "n": number, "ok": number % 2 == 0, "x": number / 4} for number in range(40)]


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {key: json.dumps(row[key]) for key in ("n", "ok", "x")} for row in rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_list(path: Path, rows: Rows) -> None:
    path.write_text("".join(row["path"] + "\n" for row in rows))


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10)


def write_parts(path: Path, rows: Rows) -> None:
    path.mkdir(exist_ok=True)
    (path / "_SUCCESS").touch()
    for first in range(0, len(rows), 10):
        write_parquet(path / f"part-{first:05}.parquet", rows[first : first + 10])
    for later in range(len(rows), len(ROWS), 10):
        (path / f"part-{-(-later // 10) * 10:05}.parquet").unlink(missing_ok=True)


def gzipped(write: Callable[[Path, Rows], None]) -> Callable[[Path, Rows], None]:
    def write_packed(path: Path, rows: Rows) -> None:
        write(path, rows)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return write_packed


KINDS = {
    "faces.csv": (write_csv, "CSV"),
    "faces.csv.gz": (gzipped(write_csv), "CSV"),
    "faces.jsonl": (write_jsonl, "JSON Lines file"),
    "faces.ndjson.gz": (gzipped(write_jsonl), "JSON Lines file"),
    "faces.txt": (write_list, "list"),
    "faces.lst.gz": (gzipped(write_list), "list"),
    "faces.parquet": (write_parquet, "Parquet file"),
    "faces": (write_parts, "folder of Parquet files"),
}


def exported(shell: Shell, name: str = "faces") -> Rows:
    answer = shell(export.main, name, "--format", "jsonl", "-o", "-", "--partial")
    return [json.loads(line) for line in answer.out.splitlines()]


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("name", KINDS)
def test_it_is_checked_recorded_resumed_grown_edited_and_moved(shell: Shell, name: str) -> None:
    write, kind = KINDS[name]
    file = shell.home / name
    write(file, ROWS[:20])
    given = ("--prompt", "person", "--run", "faces")

    checked = shell(enqueue.main, "--csv", name, *given, "--dry-run", "--json").json
    assert (checked["images"], checked["rejected"]) == (20, 0)
    assert shell(enqueue.main, "--source", name, *given).out == "run faces: 20 images in 3 chunks, 2 queued now\n"
    assert shell(enqueue.main, "--csv", name, *given).out == "run faces: 20 images in 3 chunks, 0 new\n"
    write(file, ROWS[:30])
    assert shell(enqueue.main, "--csv", name, *given).out.endswith(", 10 new\n")
    assert [row["path"] for row in exported(shell)] == [row["path"] for row in ROWS[:30]]
    write(file, [ROWS[35], *ROWS[25:5:-1]])
    edited = shell(enqueue.main, "--csv", name, *given).out
    assert edited.endswith(f"1 new, 10 no longer in the {kind} (left out of exports)\n")
    assert [row["path"] for row in exported(shell)] == [row["path"] for row in [ROWS[35], *ROWS[25:5:-1]]]

    (shell.home / "moved").mkdir()
    os.rename(file, shell.home / "moved" / name)
    moved = shell(enqueue.main, "--csv", f"moved/{name}", *given)
    assert f"run faces goes on with {shell.home}/moved/{name}, which was {file}\n" in moved.err
    write_list(shell.home / "other.txt", ROWS)
    refused = shell(enqueue.main, "--csv", "other.txt", *given, code=2).error
    assert f"source {shell.home}/moved/{name} there, {shell.home}/other.txt here" in refused


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("name", ["faces.jsonl", "faces.parquet", "faces"])
def test_types_come_back_and_a_csv_has_them_as_text(shell: Shell, name: str) -> None:
    KINDS[name][0](shell.home / name, ROWS)
    shell(enqueue.main, "--csv", name, "--prompt", "person")

    assert [{key: row[key] for key in ROWS[0]} for row in exported(shell)] == ROWS
    for out, flags in (("results.parquet", ()), ("flat.parquet", ("--flat",))):
        shell(export.main, "faces", "--format", "parquet", "-o", out, "--partial", *flags)
        back = pq.read_schema(shell.home / out)
        assert [back.field(column).type for column in ROWS[0]] == [pa.string(), pa.int64(), pa.bool_(), pa.float64()]
    assert pq.read_table(shell.home / "results.parquet").select(list(ROWS[0])).to_pylist() == ROWS
    asked = f"SELECT sum(n), count_if(ok), avg(x) FROM '{shell.home}/results.parquet'"
    assert duckdb.execute(asked).fetchall() == [(780, 20, 4.875)]
    table = shell(export.main, "faces", "--format", "csv", "-o", "-", "--partial").out
    assert table.splitlines()[2].startswith("p/1.jpg,1,false,0.25,pending,")


@pytest.mark.usefixtures("broker")
def test_a_parquet_s_own_types_come_back_to_the_letter(shell: Shell) -> None:
    from tests.producer.sources.parquet.test_parquet_source import COLUMNS

    table = pa.table({"path": ["a.jpg", "b.jpg"], **COLUMNS})
    pq.write_table(table, shell.home / "faces.parquet")
    shell(enqueue.main, "--csv", "faces.parquet", "--prompt", "person")
    shell(export.main, "faces", "--format", "parquet", "-o", "out.parquet", "--partial")

    there, back = pq.read_table(shell.home / "faces.parquet"), pq.read_table(shell.home / "out.parquet")
    same = [name for name in there.column_names if name != "double"]  # NaN is not equal to NaN
    assert back.select(same).equals(there.select(same))
    assert str(back["double"].to_pylist()) == "[0.1, nan]"
    lines = exported(shell)
    assert (lines[1]["double"], lines[0]["meta"]) == (None, {"w": 1, "tags": ["x"]})
    shown = next(
        csv.DictReader(io.StringIO(shell(export.main, "faces", "--format", "csv", "-o", "-", "--partial").out))
    )
    assert (shown["price"], shown["tags"], shown["when"]) == ("12.30", '["a", null]', "2024-05-06 07:08:09.123456")


@pytest.mark.usefixtures("broker")
def test_cells_that_no_longer_fit_their_column_do_not_stop_an_export(shell: Shell) -> None:
    write_jsonl(shell.home / "faces.jsonl", [{"path": "a.jpg", "n": "text"}, {"path": "b.jpg", "n": [1]}])
    given = ("--csv", "faces.jsonl", "--prompt", "person")
    shell(enqueue.main, *given)
    assert [row["n"] for row in exported(shell)] == ["text", [1]]
    write_jsonl(shell.home / "faces.jsonl", [{"path": "c.jpg", "n": 7}])
    shell(enqueue.main, *given)

    shell(export.main, "faces", "--format", "parquet", "-o", "out.parquet", "--partial", "--all")

    back = pq.read_table(shell.home / "out.parquet")
    assert list(zip(back["path"].to_pylist(), back["n"].to_pylist(), strict=True)) == [
        *(("c.jpg", 7), ("a.jpg", None), ("b.jpg", None))
    ]


@pytest.mark.parametrize("key", ["csv", "source"])
def test_a_config_file_names_the_source_by_either_name(shell: Shell, key: str) -> None:
    write_list(shell.home / "faces.txt", ROWS)
    (shell.home / "config.yaml").write_text(f"{key}: faces.txt\nprompt: person\n")
    assert shell(enqueue.main, "--config", "config.yaml", "--dry-run", "--json").json["images"] == 40


@pytest.mark.usefixtures("broker")
def test_sam3_enqueue_takes_a_folder_and_says_what_it_leaves_out(shell: Shell) -> None:
    for name in ("a/1.jpg", "2.png", "notes.txt"):
        (shell.home / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (shell.home / "photos" / name).touch()
    given = ("--source", "photos", "--prompt", "person")

    assert "  left out: 1 not an image (notes.txt)" in shell(enqueue.main, *given, "--dry-run").err.splitlines()
    told = shell(enqueue.main, *given)
    assert told.out == "run photos: 2 images in 1 chunk, 1 queued now\n"
    assert told.err.splitlines()[0] == "left out: 1 not an image (notes.txt)"


BAD = {
    "rows.json": (b'[{"path": "a.jpg"}]', "is one JSON array; write one object a line: python3"),
    "rows.csv.gz": (gzip.compress(b"path\n" + b"a.jpg\n" * 5000)[:60], "its gzip data are damaged or cut off"),
    "rows.parquet": (b"PAR1" + bytes(50), "its Parquet data are damaged or cut off"),
}


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_line_and_nothing_is_recorded(shell: Shell, name: str) -> None:
    content, fault = BAD[name]
    (shell.home / name).write_bytes(content)
    assert f"{name}: {fault}" in shell(enqueue.main, "--source", name, "--prompt", "person", code=2).error
    assert shell(status.main, "--json").json["runs"] == []


@pytest.mark.usefixtures("broker")
def test_lists_that_match_a_pattern_are_one_run_that_grows_and_whose_files_may_go_and_come_back(shell: Shell) -> None:
    for number, names in ((1, ("a", "b")), (2, ("c", ""))):
        lines = "".join(f"{name and name + '.jpg'},{number}\n" for name in names)
        (shell.home / f"part-{number}.csv").write_text(f"path,n\n{lines}")
    given = ("--source", "part-*.csv", "--prompt", "person", "--run", "parts", "--exit-zero")
    told = shell(enqueue.main, *given, "--dry-run")
    assert "reading part-*.csv as 2 files" in told.err
    assert "rejected: part-2.csv:3: empty path" in told.err
    assert "run parts: 4 images in 1 chunk" in shell(enqueue.main, *given).out
    assert "0 new" in shell(enqueue.main, *given).out
    (shell.home / "part-10.csv").write_text("path,n\nd.jpg,10\n")
    assert "run parts: 5 images in 2 chunks" in shell(enqueue.main, *given).out
    (shell.home / "part-1.csv").rename(shell.home / "away")
    assert "0 new, 2 no longer in the group of files (left out of exports)" in shell(enqueue.main, *given).out
    (shell.home / "away").rename(shell.home / "part-1.csv")
    shell(enqueue.main, *given)
    rows = [(row["path"], row["n"]) for row in exported(shell, "parts")]
    assert rows == [("a.jpg", "1"), ("b.jpg", "1"), ("c.jpg", "2"), ("", "2"), ("d.jpg", "10")]


@pytest.mark.usefixtures("broker")
def test_a_pattern_is_a_run_of_its_folder_that_grows_and_is_not_taken_for_another(shell: Shell) -> None:
    for name in ("a/1.jpg", "a/2.png", "b/1.jpg"):
        (shell.home / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (shell.home / "photos" / name).touch()
    given = ("--source", "photos/*/*.jpg", "--prompt", "person")

    assert shell(enqueue.main, *given).out == "run photos: 2 images in 1 chunk, 1 queued now\n"
    (shell.home / "photos/a/0.jpg").touch()
    (shell.home / "photos/b/1.jpg").unlink()
    again = shell(enqueue.main, *given).out
    assert again.endswith("1 new, 1 no longer in the pattern (left out of exports)\n")
    assert [row["path"] for row in exported(shell, "photos")] == ["a/0.jpg", "a/1.jpg"]
    refused = shell(enqueue.main, "--source", "photos/*/*", "--prompt", "person", code=2).error
    assert f"source {shell.home}/photos/*/*.jpg there, {shell.home}/photos/*/* here" in refused
    (shell.home / "photos/b/1.jpg").touch()
    os.rename(shell.home / "photos", shell.home / "moved")
    moved = shell(enqueue.main, "--source", "moved/*/*.jpg", "--prompt", "person", "--run", "photos").err
    assert moved.startswith(
        f"run photos goes on with {shell.home}/moved/*/*.jpg, which was {shell.home}/photos/*/*.jpg\n"
    )


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.usefixtures("broker")
def test_the_same_input_piped_in_again_is_the_same_run_and_other_input_is_another(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--source", "-", "--prompt", "person", "--json")
    for content, images, queued in ((b"a.jpg\nb.jpg\n", 2, 1), (b"a.jpg\nb.jpg\n", 2, 0), (b"c.jpg\n", 1, 1)):
        piped(monkeypatch, content)
        facts = shell(enqueue.main, *given).json
        assert (facts["images"], facts["queued"]) == (images, queued)
        assert facts["run"].startswith("stdin-")
    runs = shell(status.main, "--json").json["runs"]
    assert [run["images"]["total"] for run in runs] == [2, 1]


@pytest.mark.usefixtures("broker")
def test_more_input_for_a_run_that_is_named_is_a_source_that_grew(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--source", "-", "--prompt", "person", "--run", "faces")
    places: list[Path] = []
    monkeypatch.delenv("SAM3_NO_CHECK")
    (shell.home / "p").mkdir()
    for row in ROWS:
        (shell.home / row["path"]).touch()
    for content, told in (
        ("".join(f"{row['path']}\n" for row in ROWS[:3]), "run faces: 3 images in 1 chunk, 1 queued now\n"),
        ("".join(f"{row['path']}\n" for row in ROWS[:5]), "run faces: 5 images in 2 chunks, 1 queued now, 2 new\n"),
        ("".join(json.dumps(row) + "\n" for row in ROWS[4:6]), ", 1 new, 4 no longer in the JSON Lines file"),
    ):
        piped(monkeypatch, content.encode())
        assert told in shell(enqueue.main, *given).out
        places += (shell.home.parent / "state" / "stdin").iterdir()
    assert [place.name for place in places] == ["faces.stdin"] * 3
    assert places[0].stat().st_mode & 0o777 == 0o600
    assert [row["n"] for row in exported(shell)] == [4, 5]

    refused = shell(export.main, "faces", "--format", "csv", "-o", places[0], "--partial", code=2).error
    assert f"{places[0]} is the input of run faces" in refused


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (write_csv, ""),
        (write_jsonl, " as JSON Lines"),
        (write_list, ""),
        (write_parquet, ""),
        (gzipped(write_jsonl), " as JSON Lines"),
    ],
)
def test_what_is_piped_in_is_known_by_its_content_and_a_dry_run_keeps_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Rows], None], told: str
) -> None:
    write(shell.home / "rows", ROWS)
    piped(monkeypatch, (shell.home / "rows").read_bytes())
    answer = shell(enqueue.main, "--source", "-", "--prompt", "person", "--dry-run")
    assert answer.out.splitlines()[-4:-1] == [f"  image: {shell.home}/p/{number}.jpg" for number in range(3)]
    assert answer.err.rstrip().endswith(f".stdin{told}" if told else "")
    assert not (shell.home.parent / "state").exists()


def test_without_anything_piped_in_it_says_what_to_pipe(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"")
    advice = "pipe the paths in, such as: find photos -name '*.jpg' | sam3-enqueue --source - --prompt person"
    error = shell(enqueue.main, "--source", "-", "--prompt", "person", code=2).error
    assert error == f"sam3: error: -: standard input is empty; {advice}"
    assert list((shell.home.parent / "state" / "stdin").iterdir()) == []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    error = shell(enqueue.main, "--source", "-", "--prompt", "person", code=2).error
    assert error == f"sam3: error: -: standard input is a terminal; {advice}"


@pytest.mark.usefixtures("broker")
def test_a_sample_is_told_beforehand_recorded_and_later_a_part_of_the_whole_run(shell: Shell) -> None:
    write_jsonl(shell.home / "faces.jsonl", ROWS)
    given = ("--csv", "faces.jsonl", "--prompt", "person")
    sample = (*given, "--sample", 8, "--seed", 5)

    told = shell(enqueue.main, *sample, "--dry-run").out.splitlines()
    assert told[0].startswith("would record run faces: 8 images in 1 chunk;")
    assert shell(enqueue.main, *sample).out == "run faces: 8 images in 1 chunk, 1 queued now\n"
    sampled = exported(shell)
    assert told[-4:-1] == [f"  image: {shell.home}/{row['path']}" for row in sampled[:3]]
    assert shell(enqueue.main, *given).out.endswith(", 32 new\n")
    assert [row["n"] for row in exported(shell)] == list(range(40))
    error = shell(enqueue.main, *sample, "--limit", 3, code=2).error
    assert error.endswith("--sample and --limit: give one of them, as the first rows are no sample")


@pytest.mark.parametrize(
    "command",
    [
        (enqueue.main, "--source", "", "--prompt", "person"),
        (enqueue.main, "--source", "a.csv", "--image-root", "", "--prompt", "person"),
        (run.main, "", "--prompt", "person", "-o", "out"),
        (run.main, "a.csv", "--prompt", "person", "-o", ""),
        (export.main, "any", "--format", "png", "-o", ""),
    ],
)
def test_an_empty_place_is_not_taken_for_the_working_folder(shell: Shell, command: tuple[Any, ...]) -> None:
    """A shell makes one of a variable that is not set."""
    (shell.home / "a.csv").write_text("path\na.jpg\n")
    assert "is empty; if the working folder is meant, give ./" in shell(*command, code=2).error


@pytest.mark.parametrize(
    "content",
    [gzip.compress(gzip.compress(b"a.jpg\n")), b'[{"path": "a.jpg"}]', b"PK\3\4 any"],
    ids=["gzip of a gzip", "array", "zip"],
)
def test_no_command_is_advised_for_the_copy_of_what_is_piped_in(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    piped(monkeypatch, content)
    refused = shell(enqueue.main, "--source", "-", "--prompt", "person", "--dry-run", code=2).error
    assert refused.endswith("; convert it before it is piped in")


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(("write", "source"), [(write_csv, "parts/**/*.csv"), (write_parquet, "parts")])
def test_what_names_of_folders_say_is_a_column_of_the_results(
    shell: Shell, write: Callable[[Path, Rows], None], source: str
) -> None:
    given = ("--csv", source, "--prompt", "person")
    for camera in ("1", "02"):
        folder = shell.home / "parts" / f"camera={camera}"
        folder.mkdir(parents=True)
        write(folder / f"a.{'csv' if '*' in source else 'parquet'}", ROWS[:2])
    shell(enqueue.main, *given)

    def cameras() -> list[str]:
        table = shell(export.main, "parts", "--format", "csv", "--partial", "-o", "-").out
        return [row["camera"] for row in csv.DictReader(io.StringIO(table))]

    assert cameras() == ["1", "1", "02", "02"]
    (shell.home / "parts" / "camera=02").rename(shell.home / "parts" / "camera=3")
    shell(enqueue.main, *given)
    assert cameras() == ["1", "1", "3", "3"]


def test_a_source_whose_name_begins_like_a_flag_is_told_how_to_be_written(shell: Shell) -> None:
    (shell.home / "-rf photos.csv").write_text("path\na.jpg\n")
    given = ("--prompt", "cat", "-o", "out", "--dry-run")

    error = shell(run.main, "-rf photos.csv", *given, code=2).error

    assert error == "sam3: error: '-rf photos.csv' is read as a flag; write './-rf photos.csv'; see sam3 --help"
    assert "No such option" in shell(run.main, "-x", *given, code=2).error
    assert "run -rf-photos" in shell(run.main, "./-rf photos.csv", *given, "--model", "tiny", "--gpus", "cpu").out
