"""A new kind of input is a class and its name in one list: here a plain list of paths goes the whole way."""

import csv
import io
import os
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.cli import enqueue, export, status
from producer.cli.progress import Meter
from producer.sources import kinds
from producer.sources.rows.cells import BadRow
from producer.sources.rows.columns import Columns
from producer.sources.rows.rules import RowRules
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RowSource, Survey, require_prompts
from tests.producer.cli.conftest import Shell
from workers.errors import UsageError


class PathList(RowSource):
    """One path a line, and no header."""

    kind = "list"
    columns = Columns(("path",), "path", None)
    confined = False

    def __init__(self, path: Path, reading: ReadOptions = DEFAULT_OPTIONS) -> None:
        require_prompts(reading)
        self.path = path.absolute()
        self.place, self.root = str(self.path), str(self.path.parent)
        self.follow_symlinks = reading.follow_symlinks
        self._lines = path.read_bytes().splitlines(keepends=True)
        if not self._lines:
            raise UsageError(f"{path}: is empty; write one path a line")
        self._rules = RowRules(self.columns, self.root, confined=False)

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        return path.suffix == ".txt"

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        survey = self.survey()
        return (known_size, known_sha256) == (survey.size, survey.sha256)

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        content = b"".join(self._lines)
        sample = tuple((number, row.path) for number, row in enumerate(self.rows()) if row.rejected is None)
        return Survey(
            size=len(content),
            mtime_ns=self.path.stat().st_mtime_ns,
            sha256=sha256(content).hexdigest(),
            rows=len(self._lines),
            continues=sha256(content[:known_size]).hexdigest() == known_sha256,
            sample=sample,
        )

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        for number, line in islice(enumerate(self._lines, start=1), skip, None):
            cells = [line.decode().rstrip("\n")]
            try:
                yield self._rules.row(cells)
            except BadRow as bad:
                yield self._rules.rejected(cells, f"{self.path.name}:{number}", bad)


@pytest.fixture(autouse=True)
def lists_are_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line that a new kind of input needs elsewhere."""
    monkeypatch.setattr(kinds, "KINDS", (PathList, *kinds.KINDS))


@pytest.fixture
def faces(shell: Shell) -> Path:
    path = shell.home / "faces.txt"
    path.write_text("a.jpg\nsub/../b.jpg\nhttps://there/c.jpg\n")
    return path


def paths_of(shell: Shell) -> list[tuple[str, str]]:
    answer = shell(export.main, "faces", "--format", "csv", "-o", "-", "--partial")
    return [(row["path"], row["sam3_status"]) for row in csv.DictReader(io.StringIO(answer.out))]


@pytest.mark.usefixtures("broker")
def test_it_is_checked_recorded_resumed_grown_and_exported(shell: Shell, faces: Path) -> None:
    given = ("--csv", faces.name, "--prompt", "person", "--json", "--exit-zero")
    checked = shell(enqueue.main, *given, "--dry-run").json
    assert (checked["images"], checked["rejected"]) == (3, 1)

    first = shell(enqueue.main, *given).json
    assert (first["images"], first["queued"], first["rejected"]) == (3, 1, 1)
    again = shell(enqueue.main, *given).json
    assert (again["images"], again["queued"]) == (3, 0)

    with faces.open("a") as file:
        file.write("d.jpg\n")
    grown = shell(enqueue.main, *given).json
    assert (grown["images"], grown["queued"]) == (4, 1)
    assert shell(status.main, "faces", "--json").json["images"]["pending"] == 3
    assert paths_of(shell) == [
        ("a.jpg", "pending"),
        ("sub/../b.jpg", "pending"),  # as it was written
        ("https://there/c.jpg", "rejected"),
        ("d.jpg", "pending"),
    ]


@pytest.mark.usefixtures("broker")
def test_one_that_was_moved_is_known_by_its_content_and_an_edited_one_by_its_paths(shell: Shell, faces: Path) -> None:
    given = ("--prompt", "person", "--run", "faces", "--exit-zero")
    shell(enqueue.main, "--csv", faces.name, *given)
    os.rename(faces, shell.home / "names.txt")
    assert "run faces goes on with" in shell(enqueue.main, "--csv", "names.txt", *given).err

    (shell.home / "names.txt").write_text("b.jpg\ne.jpg\n")
    edited = shell(enqueue.main, "--csv", "names.txt", *given).out
    assert edited.endswith("1 new, 2 no longer in the list (left out of exports)\n")
    assert [path for path, _ in paths_of(shell)] == ["b.jpg", "e.jpg"]


@pytest.mark.usefixtures("broker")
def test_a_load_that_was_interrupted_goes_on_where_it_stopped(
    shell: Shell, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces.write_text("".join(f"{number}.jpg\n" for number in range(2500)))
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 1000)

    def interrupt(meter: Meter, done: int, total: int) -> None:
        raise KeyboardInterrupt

    given = ("--csv", faces.name, "--prompt", "person")
    with monkeypatch.context() as one_slice:
        one_slice.setattr(Meter, "tell", interrupt)
        shell(enqueue.main, *given, code=130)
    before = shell(status.main, "faces", "--json").json
    assert before["state"] == "loading"
    assert 0 < before["images"]["total"] < 2500

    assert f", {2500 - before['images']['total']:,} new" in shell(enqueue.main, *given).out
    assert shell(status.main, "faces", "--json").json["images"]["total"] == 2500
