"""Commands that look at a database make none: a mistyped name is said, and nothing is there afterwards."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from producer.cli.cancel import main as cancel
from producer.cli.database import main as database
from producer.cli.delete import main as delete
from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export
from producer.cli.retry import main as retry
from producer.cli.status import main as status
from tests.producer.cli.conftest import Shell
from workers.cli.base import Sam3Command

LOOKING: list[tuple[Sam3Command, tuple[str, ...]]] = [
    (status, ()),
    (status, ("faces",)),
    (retry, ("faces",)),
    (cancel, ("faces",)),
    (delete, ("faces", "--yes")),
    (export, ("faces", "--format", "csv", "-o", "faces.csv")),
]
ADVICE = "SAM3_DATABASE_URL names it: correct that"
BEGIN = "or begin with sam3-enqueue --csv FILE --prompt TEXT"


def everything(folder: Path) -> dict[str, bytes]:
    """All that is in the folder, with its contents."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE places (id INTEGER PRIMARY KEY, title TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('3f0a')")
        connection.commit()


@pytest.mark.parametrize(("command", "given"), LOOKING)
def test_a_mistyped_name_is_said_and_makes_neither_file_nor_folder(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, command: Sam3Command, given: tuple[str, ...]
) -> None:
    for name in ("typo.db", "no/folder/sam3.db"):
        monkeypatch.setenv("SAM3_DATABASE_URL", f"sqlite:///{name}")

        assert shell(command, *given, code=3).error == (
            f"sam3: error: cannot use the database {shell.home / name}: there is no such file; {ADVICE}, {BEGIN}"
        )

    assert everything(shell.home) == {}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.touch, "it is empty"),
        (of_another_program, "it holds the tables of another program"),
        (lambda path: path.write_text("path\na.jpg\n" * 100), "file is not a database"),
        (Path.mkdir, "it is not a file"),
    ],
    ids=["empty", "foreign", "text", "folder"],
)
def test_a_file_that_is_no_database_of_ours_stays_as_it_is(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], why: str
) -> None:
    make(shell.home / "other.db")
    before = everything(shell.home)
    monkeypatch.setenv("SAM3_DATABASE_URL", "sqlite:///other.db")

    for command, given in LOOKING:
        error = shell(command, *given, code=3).error
        assert f"cannot use the database {shell.home / 'other.db'}: {why}; {ADVICE}" in error

    assert everything(shell.home) == before


def test_the_database_of_another_program_gets_no_tables_of_ours_even_where_one_may_be_made(
    shell: Shell, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_another_program(shell.home / "places.sqlite")
    (shell.home / "faces.csv").write_text("path\na.jpg\n")
    before = everything(shell.home)
    monkeypatch.setenv("SAM3_DATABASE_URL", "sqlite:///places.sqlite")

    for command, given in ((database, ("upgrade",)), (enqueue, ("--csv", "faces.csv", "--prompt", "person"))):
        error = shell(command, *given, code=3).error
        assert error.endswith(f"places.sqlite: it holds the tables of another program; {ADVICE}")

    assert everything(shell.home) == before


def test_enqueue_makes_the_database_and_status_then_reads_it(
    shell: Shell, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shell.home / "faces.csv").write_text("path\na.jpg\n")
    monkeypatch.setenv("SAM3_DATABASE_URL", "sqlite:///new/what%3F 100%23.db")

    shell(enqueue, "--csv", "faces.csv", "--prompt", "person")

    assert shell(status, "faces", "--json").json["images"]["total"] == 1
    assert {path.name for path in (shell.home / "new").iterdir()} >= {"what? 100#.db"}


def test_the_line_names_whatever_setting_the_place_came_from(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAM3_DATABASE_URL")
    folder = f"cannot use the database {shell.home}/typo/sam3.db: there is no such file; it is in the folder that"
    monkeypatch.setenv("SAM3_STATE_DIR", str(shell.home / "typo"))
    assert f"{folder} SAM3_STATE_DIR names: set SAM3_DATABASE_URL to" in shell(status, code=3).error

    monkeypatch.delenv("SAM3_STATE_DIR")
    config = shell.home / "sam3.yaml"
    config.write_text(f"state_dir: {shell.home}/typo\n")
    assert f"{folder} state_dir in the --config file names: " in shell(status, "--config", config, code=3).error
    config.write_text("database_url: sqlite:///typo.db\n")
    error = shell(status, "--config", config, code=3).error
    assert "/typo.db: there is no such file; database_url in the --config file names it: correct that" in error

    monkeypatch.setenv("XDG_STATE_HOME", str(shell.home / "state"))
    error = shell(status, code=3).error
    assert "there is no such file; that is the default place: set SAM3_DATABASE_URL to the one you mean, or" in error


def test_a_sam3_run_folder_without_its_database_is_named_by_its_run_file(shell: Shell) -> None:
    (shell.home / "out").mkdir()
    (shell.home / "out" / "run.yaml").write_text("run: photos\n")

    error = shell(status, "out", code=3).error

    assert error.endswith(
        "there is no such file; it belongs to out/run.yaml: the same sam3-run command again makes what is missing"
    )
    assert set(everything(shell.home)) == {"out", "out/run.yaml"}
