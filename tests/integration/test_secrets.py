"""Passwords and tokens as canaries: whatever breaks, none of them is seen in a log, an error, a page, a row or `ps`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.engine import make_url

from db.models import Base
from db.session import Sessions, reading
from tests.integration.browser import Browser
from tests.integration.faults import farm
from tests.integration.processes import command_lines
from tests.terminals import Background, Terminal, wait_until
from tests.workers import runs
from workers.fleet.valkey import free_port

BROKER, DATABASE, TOKEN, LOGIN = "broker-canary", "database-canary", "hf_tokencanary", "me:flower-canary"
CANARIES = (BROKER, DATABASE, TOKEN, "flower-canary")


@dataclass(frozen=True)
class Broker:
    """A broker whose administrator lets our user in or throws him out."""

    admin: Any  # redis-py types hardly anything

    def open(self) -> None:
        self.admin.execute_command("ACL", "SETUSER", "keeper", "on", f">{BROKER}", "~*", "&*", "+@all")

    def close(self) -> None:
        self.admin.execute_command("ACL", "SETUSER", "keeper", "off")
        self.admin.execute_command("CLIENT", "KILL", "USER", "keeper")


@dataclass(frozen=True)
class Database:
    """A database of which the same is true."""

    admin: psycopg.Connection

    def open(self) -> None:
        self.admin.execute("ALTER ROLE keeper LOGIN")

    def close(self) -> None:
        self.admin.execute("ALTER ROLE keeper NOLOGIN")
        self.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keeper'")


@pytest.fixture(autouse=True)
def real_scripts(terminal: Terminal) -> None:
    """`ps` shows what was executed, and a fork of the tests' forerunner shows that one's command line, not its own."""
    terminal.forerunner = None


@pytest.fixture
def broker(here: Terminal, broker_url: str) -> Iterator[Broker]:
    with redis.Redis.from_url(broker_url) as admin:
        broker = Broker(admin)
        broker.open()
        here.environment["SAM3_BROKER_URL"] = f"redis://keeper:{BROKER}@127.0.0.1:{urlsplit(broker_url).port}/0"
        yield broker


@pytest.fixture
def database(here: Terminal, database_url: str) -> Iterator[Database]:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{DATABASE}'")
        url = make_url(database_url).set(username="keeper", password=DATABASE)
        here.environment["SAM3_DATABASE_URL"] = url.render_as_string(hide_password=False)
        yield (database := Database(admin))
        database.close()
        admin.execute("DROP ROLE keeper")


@pytest.mark.long
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_canary_is_seen_while_a_task_fails_and_broker_and_database_refuse_their_password(
    here: Terminal, sessions: Sessions, broker: Broker, database: Database, tmp_path: Path
) -> None:
    here.environment |= {"HF_TOKEN": TOKEN, "SAM3_DEBUG": "1", "SAM3_FAULT_PAUSE_SECONDS": "0.2"}
    run_id = farm.load(sessions, tmp_path / "in", 48, chunk_size=4)
    flower = here.start("sam3-flower", "--port", str(port := free_port()), FLOWER_BASIC_AUTH=LOGIN)
    browser = Browser(port, LOGIN)
    wait_until(lambda: browser.status("/") == 200 or flower.process.poll() is not None, "Flower")
    worker = here.start("sam3-worker", "--gpus", "cpu", FAKE_SECONDS_PER_IMAGE="0.1")
    farm.some_results(sessions)
    a_task_fails(database, browser)
    farm.some_results(sessions)

    database.close()
    said = commands_that_fail(here, "keeper", ("sam3-status",), ("sam3-worker", "--gpus", "cpu"))
    wait_until(lambda: "not permitted to log in" in worker.output(), "the worker to miss its database")
    listed = command_lines()
    database.open()
    farm.some_results(sessions)

    broker.close()
    said += commands_that_fail(here, "invalid username-password", *NEED_THE_BROKER)
    wait_until(lambda: "invalid username-password" in worker.output(), "the worker to miss its broker")
    listed += command_lines()
    broker.open()
    farm.finish(sessions, run_id)

    look_at_everything(browser)
    end(worker, flower)
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.log"))
    seen = {"errors": said, "ps": listed, "Flower": browser.seen, "logs": logs, "rows": everything(sessions)}
    shown = {"errors": "Traceback", "ps": "sam3-worker", "Flower": "UndefinedTable", "logs": "celery", "rows": "faces"}
    assert {where for where, what in shown.items() if what not in seen[where]} == set()  # it was really looked at
    assert {where for where, what in seen.items() for canary in CANARIES if canary in what} == set()


def a_task_fails(database: Database, browser: Browser) -> None:
    """With the traceback of an SQL error, which Flower shows."""
    database.admin.execute("ALTER TABLE result RENAME TO elsewhere")
    wait_until(lambda: "FAILURE" in {row["state"] for row in browser.tasks()}, "a failed task")
    database.admin.execute("ALTER TABLE elsewhere RENAME TO result")


def look_at_everything(browser: Browser) -> None:
    for row in browser.tasks():
        browser.get(f"/task/{row['uuid']}")
    for page in ("/", "/workers", "/broker", "/tasks", "/metrics", "/api/tasks", "/api/workers?refresh=1"):
        browser.status(page)


NEED_THE_BROKER = (
    ("sam3-enqueue", "--csv", "faces.csv", "--prompt", "person"),
    ("sam3-worker", "--gpus", "cpu"),
    ("sam3-flower", "--port", "1"),
)


def commands_that_fail(here: Terminal, reason: str, *commands: tuple[str, ...]) -> str:
    (here.home / "faces.csv").write_text("path\na.jpg\n")
    said = ""
    for command in commands:
        ended = here.run(*command, code=3)
        assert reason in ended.stderr
        said += ended.stdout + ended.stderr
    return said


def end(worker: Background, flower: Background) -> None:
    worker.interrupt()
    worker.wait(code=130)
    flower.process.terminate()
    flower.wait(code=None, seconds=20)


def everything(sessions: Sessions) -> str:
    """All rows of all tables, as text."""
    with reading(sessions) as session:
        rows = [session.execute(text(f"SELECT * FROM {table.name}")).all() for table in Base.metadata.sorted_tables]
    return repr(rows)


def test_the_hub_s_token_is_not_in_what_is_said_about_the_hub(terminal: Terminal) -> None:
    (terminal.home / "faces.csv").write_text("path\na.jpg\n")
    ended = terminal.run(
        *("sam3-run", "faces.csv", "--prompt", "person", "--model", "facebook/sam3", "-o", "out", "--debug"),
        code=3,
        SAM3_SEGMENTER="",
        HF_TOKEN=TOKEN,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT="http://127.0.0.1:1",
        HF_HOME=str(terminal.home / "hub"),
    )
    assert "cannot download facebook/sam3" in ended.stderr
    assert TOKEN not in ended.stderr + ended.stdout


@pytest.mark.long
def test_the_password_that_sam3_run_makes_up_is_seen_by_its_processes_only(terminal: Terminal) -> None:
    del terminal.environment["SAM3_STATE_DIR"]
    runs.pictures(terminal.home / "in", 8)
    given = ("in", "--prompt", "person", "--model", "any/model", "--gpus", "cpu", "-o", "out")
    run = terminal.start("sam3-run", *given, FAKE_SECONDS_PER_IMAGE="0.3")
    url = ""

    def node_is_there() -> bool:
        nonlocal url
        for pid in farm.descendants(run.process.pid):
            for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if one.startswith(b"SAM3_BROKER_URL="):
                    url = one.decode().partition("=")[2]
        return bool(url)

    wait_until(node_is_there, "a node")
    password = urlsplit(url).password
    assert password is not None
    listed = command_lines()
    said = run.wait()
    written = [path for path in terminal.home.rglob("*") if path.is_file()]
    assert {"run.yaml", "results.csv", "sam3.db", "cpu0.log", "broker.log"} <= {path.name for path in written}
    assert password not in listed + said
    assert [path for path in written if password.encode() in path.read_bytes()] == []
