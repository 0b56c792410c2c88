"""Flower, really running: what it shows of nodes and runs, to whom, and what it never shows."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from db.session import Sessions
from tests.db import scenario
from tests.integration.browser import Browser
from tests.integration.processes import command_lines
from tests.integration.valkey import free_port
from tests.terminals import Terminal, wait_until
from tests.workers import runs
from workers.processes import this_process

LOGIN = "me:flower-canary"
DATABASE_PASSWORD = "database-canary"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_flower_shows_nodes_and_runs_to_who_may_see_them_and_no_password_to_anybody(
    here: Terminal, sessions: Sessions, broker_url: str, database_url: str, tmp_path: Path
) -> None:
    with_password = make_url(database_url).set(password=DATABASE_PASSWORD).render_as_string(hide_password=False)
    here.environment["SAM3_DATABASE_URL"] = with_password
    with_packages_named_as_ours(here.home)
    port = free_port()
    linked = {"FLOWER_PORT": "tcp://10.0.0.1:5555", "FLOWER_SERVICE_HOST": "10.0.0.1"}  # as a container engine sets
    flower = here.start("sam3-flower", "--port", str(port), FLOWER_BASIC_AUTH=LOGIN, **linked)
    stranger, me = Browser(port, None), Browser(port, LOGIN)
    wait_until(lambda: me.status("/") == 200 or flower.process.poll() is not None, "Flower")
    for page in ("/", "/workers", "/tasks", "/tasks/datatable?draw=1", "/broker", "/api/workers", "/api/tasks"):
        assert stranger.status(page) == 401

    worker = here.start("sam3-worker", "--gpus", "cpu")
    node = f"cpu0@{this_process().host}"
    wait_until(lambda: node in me.get("/workers"), "the node")  # from here on Flower hears its events
    run_id = runs.load(sessions, tmp_path / "pictures", runs.pictures(tmp_path / "pictures", 6), chunk_size=4)
    wait_until(lambda: scenario.run(sessions, run_id).state == "done", "the run")
    wait_until(lambda: [row["state"] for row in me.tasks()] == ["SUCCESS"] * 2, "the tasks", seconds=20)
    shows_the_run(me.tasks(), node)
    for page in (f"/worker/{node}", "/task/faces-00001.1", "/tasks", "/broker", "/metrics"):
        me.get(page)

    worker.interrupt()
    worker.wait(code=130)
    listed = command_lines()
    flower.process.terminate()
    flower.wait(code=None, seconds=20)
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.log"))
    assert "Flower on http://127.0.0.1" in logs
    broker_password = broker_url.removeprefix("redis://:").partition("@")[0]
    for secret in (broker_password, DATABASE_PASSWORD, LOGIN):
        assert secret not in me.seen + logs + listed


def with_packages_named_as_ours(home: Path) -> None:
    """The folder that the user is in must not be imported from."""
    (home / "db").mkdir()
    (home / "db" / "__init__.py").write_text("raise SystemExit('the user has a package of this name')")
    (home / "workers.py").write_text("raise SystemExit('the user has a module of this name')")


def shows_the_run(rows: list[dict[str, Any]], node: str) -> None:
    first, second = rows
    assert [row["uuid"] for row in rows] == ["faces-00001.1", "faces-00002.1"]
    assert "run=faces chunk=1 images=4 first=0000.png" in first["args"]
    assert "run=faces chunk=2 images=2 first=0004.png" in second["args"]
    assert {row["worker"] for row in rows} == {node}
    assert "'segmented': 4" in first["result"]


def test_flower_is_opened_to_others_only_with_a_login(terminal: Terminal) -> None:
    refused = terminal.run("sam3-flower", "--address", "0.0.0.0", code=2)
    assert refused.stderr.count("\n") == 1
    assert "set FLOWER_BASIC_AUTH=user:password, or use 127.0.0.1" in refused.stderr


def test_flower_without_a_broker_is_one_line(terminal: Terminal) -> None:
    refused = terminal.run("sam3-flower", code=3, SAM3_BROKER_URL="redis://:canary@127.0.0.1:1/0")
    assert refused.stderr.count("\n") == 1
    assert "cannot reach the broker redis://:***@127.0.0.1:1/0" in refused.stderr
