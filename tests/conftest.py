"""Fixtures of all tests: a real PostgreSQL server, an empty database of each kind, and one with our tables."""

import gc
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from db.session import Sessions, connect, reading
from tests import buckets, compiled_statements, pgbouncer, templates
from tests.brokers import ReusedBroker
from tests.buckets import Bucket
from tests.db import audit
from tests.db.recount import differences
from tests.postgresql import Postgresql, serve
from tests.quick_start import Forerunner
from tests.terminals import Terminal

# A shell that starts the tests in the background has Ctrl-C ignored in them and in all that they start; nohup, hangups.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Threads that wait for their part of torch's next computation sleep, here and in all that tests start. By themselves
# they turn in circles, which takes two thirds of a processor from the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Everything that tests start imports our modules, which Python would compile anew each time if it may keep no files.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

compiled_statements.share()

gc.disable()  # until all modules are imported, as what an import makes stays: a fourth of the collection's time


def pytest_collection_finish() -> None:
    """Let Python look for garbage ten times less often than by itself: a twentieth of the time of the tests."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A real server of this test process."""
    with serve() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_url(postgresql: Postgresql) -> str:
    return postgresql.url


@pytest.fixture(scope="session")
def postgresql_way(postgresql_url: str) -> Iterator[str]:
    """How tests reach their databases: the server itself, or with SAM3_TEST_POOLER=1 a PgBouncer before it."""
    if not os.environ.get("SAM3_TEST_POOLER"):
        yield postgresql_url
        return
    with pgbouncer.before(postgresql_url) as url:
        yield url


@pytest.fixture(scope="session")
def bucket_ports() -> Iterator[Callable[[str], int]]:
    """Find the port of this test process's real server for a kind of bucket; it starts when it is first asked for."""
    with ExitStack() as servers:
        yield cache(lambda kind: servers.enter_context(buckets.serve(kind)))


@pytest.fixture
def bucket(
    bucket_ports: Callable[[str], int], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """An empty bucket of this test, which this process may use; `bucket.environment` lets others."""
    kind = getattr(request, "param", "s3")
    bucket = buckets.KINDS[kind](bucket_ports(kind), f"bucket-{next(_bucket_numbers)}-{os.getpid()}")
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    yield bucket
    bucket.close()


_bucket_numbers = itertools.count(1)
_database_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql_copies(postgresql_url: str) -> templates.PostgresqlCopies:
    """Databases with our tables and the audit."""
    return templates.PostgresqlCopies(postgresql_url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with our tables and the audit, to be copied."""
    return templates.make_sqlite(tmp_path_factory.mktemp("template") / "sam3.db", audited=True)


@pytest.fixture
def with_tables() -> None:
    """Who asks for this beside `database_url` gets a database that holds our tables and the audit."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database: each test that asks for it runs on SQLite and on PostgreSQL."""
    filled = "with_tables" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "sam3.db"
        if filled:
            templates.copy_sqlite(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    name = f"test_{next(_database_numbers)}"
    with_name = make_url(request.getfixturevalue("postgresql_way")).set(database=name)
    if filled:
        copies = request.getfixturevalue("postgresql_copies")
        copies.take(name)
        yield with_name.render_as_string(hide_password=False)
        copies.give_back(name)
        return
    server = request.getfixturevalue("postgresql_url")
    templates.create_postgresql(server, name)
    yield with_name.render_as_string(hide_password=False)
    templates.drop_postgresql(server, name)


@pytest.fixture
def sessions(database_url: str, with_tables: None) -> Iterator[Sessions]:
    """A session factory on a fresh database with our tables.

    However the test ends, the counters are then counted again from the rows, and any difference fails it; so does
    any commit that was somebody else's to make.
    """
    sessions = connect(database_url, connections=8)
    yield sessions
    try:
        with reading(sessions) as session:
            found = differences(session) + audit.findings(session)
        assert not found, "the rows do not agree:\n" + "\n".join(found)
    finally:
        sessions.kw["bind"].dispose()


@pytest.fixture(scope="session")
def reused_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReusedBroker]:
    """A real Valkey server of this test process; it starts when it is first asked for."""
    broker = ReusedBroker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.close()


@pytest.fixture
def broker_url(reused_broker: ReusedBroker) -> Iterator[str]:
    """A real Valkey server, asking for a password, as sam3-run starts it."""
    reused_broker.take()
    yield reused_broker.url
    reused_broker.give_back()


@pytest.fixture
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `SAM3_*` variable of whoever runs the tests reaches the test."""
    for name in [name for name in os.environ if name.startswith("SAM3_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def forerunner() -> Iterator[Forerunner]:
    """A process that has imported our commands, so that they begin at once."""
    forerunner = Forerunner()
    yield forerunner
    forerunner.close()


@pytest.fixture
def terminal(tmp_path: Path, forerunner: Forerunner) -> Iterator[Terminal]:
    """A person at a terminal in an empty folder, with state of their own and no model weights."""
    home = tmp_path / "home"
    home.mkdir()
    own = {"SAM3_STATE_DIR": str(tmp_path / "state"), "SAM3_SEGMENTER": "tests.fakes:FakeSegmenter"}
    terminal = Terminal(home, **own)
    terminal.forerunner = forerunner
    yield terminal
    terminal.close()


@pytest.fixture
def real_programs(terminal: Terminal) -> None:
    """Commands and nodes of this test are no forks: their scripts, and whatever they start, start as for a user."""
    terminal.forerunner = None
