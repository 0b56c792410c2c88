"""Flower, really running: what it shows of nodes and runs, to whom, and what it never shows."""

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from sqlalchemy.engine import make_url

from db.session import Sessions
from tests import tls
from tests.db import scenario
from tests.integration.browser import Browser
from tests.integration.processes import command_lines
from tests.terminals import Terminal, wait_until
from tests.workers import runs
from workers.fleet.processes import this_process
from workers.fleet.valkey import free_port

LOGIN = "me:flower-canary"
DATABASE_PASSWORD = "database-canary"


@pytest.mark.long
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
    wait_until(lambda: [row["state"] for row in me.tasks()] == ["SUCCESS"] * 2, "the tasks")
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


def test_flower_shows_the_queue_behind_tls_with_a_private_authority(
    terminal: Terminal, broker_url: str, tmp_path: Path
) -> None:
    authority, certificate = tls.make_authority(tmp_path)
    inside = urlsplit(broker_url)
    assert inside.port is not None
    with tls.before(inside.port, certificate) as outside:
        url = f"rediss://:{inside.password}@localhost:{outside}/0?ssl_cert_reqs=required"
        stranger = terminal.run("sam3-flower", code=3, SAM3_BROKER_URL=url)  # the machine knows no such authority
        assert "certificate verify failed" in stranger.stderr
        port = free_port()
        told = f"{url}&ssl_ca_certs={authority}"
        flower = terminal.start("sam3-flower", "--port", str(port), SAM3_BROKER_URL=told)
        me = Browser(port, None)
        wait_until(lambda: me.status("/") == 200 or flower.process.poll() is not None, "Flower")
        with redis.Redis.from_url(broker_url) as client:
            client.lpush("sam3", *range(4321))  # doorbells, as far as their number goes
        assert "4321" in me.get("/broker")
    assert "Unable to get queues" not in flower.output()


@pytest.fixture
def open_flower(terminal: Terminal, broker_url: str) -> int:
    """The port of one that asks for no login."""
    port = free_port()
    flower = terminal.start("sam3-flower", "--port", str(port), SAM3_BROKER_URL=broker_url)
    me = Browser(port, None)
    wait_until(lambda: me.status("/") == 200 or flower.process.poll() is not None, "Flower")
    return port


def test_flower_answers_only_to_the_names_of_this_machine(open_flower: int) -> None:
    """The page of a name that was made to mean 127.0.0.1 must not read ours."""
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert Browser(open_flower, None, host=f"{name}:{open_flower}").status("/workers") == 200
    for name in ("evil.example", "evil.example:5555", "localhost.evil.example", "127.0.0.1.evil.example", ""):
        for page in ("/", "/workers", "/tasks", "/api/workers", "/metrics", "/static/js/flower.js", "/healthcheck"):
            assert Browser(open_flower, None, host=name).status(page) in (400, 403)


def test_runtimes_of_up_to_an_hour_are_told_apart_and_flower_commands_nobody(open_flower: int) -> None:
    me = Browser(open_flower, None)
    from workers.cli import flower_config

    assert flower_config.task_runtime_metric_buckets[-1] == 3600.0
    assert me.status("/api/worker/shutdown/cpu0@here", {}) in (401, 403)


def test_flower_on_a_port_in_use_is_one_line(terminal: Terminal, broker_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = terminal.run("sam3-flower", "--port", str(port), code=2, SAM3_BROKER_URL=broker_url)
    assert refused.stderr == (
        f"sam3-flower: error: 127.0.0.1:{port} cannot be used: address already in use; "
        "choose another --port or --address\n"
    )
