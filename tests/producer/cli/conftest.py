"""A person at a shell whose commands run in this process: quick, and with a real SQLite database."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import Engine, create_engine

from db.session import Sessions, connect, reading
from tests import templates
from tests.db.recount import differences
from tests.db.scenario import claim, commit, done, failed, load, numbered
from tests.terminals import Terminal


@dataclass(frozen=True)
class Answer:
    """What a command printed."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error; nothing else may have been printed."""
        assert not self.out
        [line] = self.err.splitlines()
        return line


@dataclass(frozen=True)
class Shell:
    """An empty folder, with the database `sessions` in the environment, and nothing of ours besides."""

    home: Path
    sessions: Sessions
    capture: pytest.CaptureFixture[str]

    def __call__(self, command: click.Command, *given: object, code: int | None = 0) -> Answer:
        """Run a command and check its exit code, if one is expected."""
        typed = sys.argv
        with pytest.raises(SystemExit) as end:
            command.main([str(argument) for argument in given])
        sys.argv = typed  # `sam3 run` makes `sam3-run` of it
        printed = self.capture.readouterr()
        assert code is None or end.value.code == code, f"ended with {end.value.code}:\n{printed.out}{printed.err}"
        return Answer(printed.out, printed.err)


def noted(engines: list[Engine], engine: Engine) -> Engine:
    engines.append(engine)
    return engine


@pytest.fixture(scope="session")
def plain_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with our tables and nothing else, to be copied."""
    return templates.make_sqlite(tmp_path_factory.mktemp("template") / "sam3.db", audited=False)


@pytest.fixture
def shell(
    no_settings_of_this_machine: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plain_template: Path,
) -> Iterator[Shell]:
    """However the test ends, the counters are then counted again from the rows, and any difference fails it."""
    database = tmp_path / "sam3.db"
    templates.copy_sqlite(plain_template, database)
    url = f"sqlite:///{database}"
    monkeypatch.setenv("SAM3_DATABASE_URL", url)
    monkeypatch.setenv("SAM3_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SAM3_BROKER_URL", "redis://localhost:1/0")  # nobody listens there
    monkeypatch.setenv("SAM3_NO_CHECK", "1")  # most CSVs of these tests name files that are not there
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.argv", ["sam3"])
    opened: list[Engine] = []
    for module in ("sqlite", "postgresql"):
        monkeypatch.setattr(
            f"db.{module}.create_engine", lambda *given, **kept: noted(opened, create_engine(*given, **kept))
        )
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    sessions = connect(url)
    yield Shell(home, sessions, capsys)
    with reading(sessions) as session:
        found = differences(session)
    for engine in opened:  # a process of its own would close them by ending
        engine.dispose()
    assert not found, "the rows do not agree with each other:\n" + "\n".join(found)


@pytest.fixture
def broker(shell: Shell, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real broker, known to the shell's commands."""
    monkeypatch.setenv("SAM3_BROKER_URL", broker_url)
    return broker_url


@pytest.fixture
def faces(shell: Shell) -> None:
    """Two images with scores of 0.9 and 0.6, and a broken one."""
    run_id = load(shell.sessions, numbered(3))
    held = claim(shell.sessions, run_id)
    commit(shell.sessions, held, [done(held.images[0], 0.9, 0.6), done(held.images[1], 0.6), failed(held.images[2])])


@pytest.fixture
def here(terminal: Terminal) -> Terminal:
    """State in the output folder, as without any setting, beside a package of the user's that is called like ours."""
    del terminal.environment["SAM3_STATE_DIR"]
    (terminal.home / "db").mkdir()
    (terminal.home / "db" / "__init__.py").write_text("raise SystemExit('the db of the working folder was taken')")
    (terminal.home / "photos" / "more").mkdir(parents=True)
    return terminal
