"""The bundled server, by itself and as sam3-broker: its password, its port, its end."""

import os
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from tests.terminals import Terminal, wait_until
from tests.workers.doorbells import app_on, ring
from workers.broker.connection import Doorbells, check_broker
from workers.errors import Unreachable, UsageError
from workers.fleet.valkey import BundledBroker, free_port, listens
from workers.settings import published_url, url_file


def test_the_bundled_server_asks_for_a_password(broker_url: str) -> None:
    assert check_broker(app_on(broker_url)) == []
    port = broker_url.rpartition(":")[2]
    with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_the_bundled_server_shows_its_password_in_no_process_list_log_or_file(tmp_path: Path) -> None:
    broker = BundledBroker(tmp_path / "broker")
    broker.start()
    try:
        password = broker.url.removeprefix("redis://:").partition("@")[0]
        assert len(password) >= 24
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "valkey" in listed
        assert password not in listed
        files = [path for path in broker.folder.rglob("*") if path.is_file()]
        assert files
        assert all(password.encode() not in path.read_bytes() for path in files)
        assert stat.S_IMODE(broker.folder.stat().st_mode) == 0o700
    finally:
        broker.stop()


def test_the_bundled_server_listens_on_loopback_only(broker_url: str) -> None:
    with redis.Redis.from_url(broker_url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_sam3_broker_keeps_its_queue_over_a_restart_and_refuses_a_taken_port(terminal: Terminal) -> None:
    port, state = free_port(), Path(terminal.environment["SAM3_STATE_DIR"])
    first = terminal.start("sam3-broker", "--port", str(port))
    wait_until(lambda: "Next:" in first.output(), "the broker")
    url = published_url(state)
    assert url is not None
    ring(app_on(url), 7)

    second = terminal.run("sam3-broker", "--port", str(port), code=2, SAM3_STATE_DIR="elsewhere")
    assert second.stderr.count("\n") == 1
    assert f"port {port} is in use" in second.stderr
    third = terminal.run("sam3-broker", "--port", str(free_port()), code=2)
    assert third.stderr.count("\n") == 1
    assert f"another sam3-broker works with {state / 'broker'}" in third.stderr

    first.interrupt()
    assert first.wait(code=130).rstrip().endswith("\nstopped")
    assert published_url(state) is None
    again = terminal.start("sam3-broker", "--port", str(port))
    wait_until(lambda: "Next:" in again.output(), "the broker")
    assert published_url(state) == url  # workers that run have it
    assert Doorbells(app_on(url)).chunks() == {7}

    again.kill_group()  # the server is in a group of its own, and ends with its parent
    wait_until(lambda: not listens(port), "the end of the server")
    assert published_url(state) is None


def test_commands_of_the_same_user_find_the_password_of_sam3_broker_and_nobody_else_does(terminal: Terminal) -> None:
    port, state = free_port(), Path(terminal.environment["SAM3_STATE_DIR"])
    broker = terminal.start("sam3-broker", "--port", str(port))
    wait_until(lambda: "Next:" in broker.output(), "the broker")
    password = urlsplit(published_url(state)).password
    assert isinstance(password, str)
    assert len(password) >= 24
    assert stat.S_IMODE(url_file(state).stat().st_mode) == 0o600
    assert stat.S_IMODE(url_file(state).parent.stat().st_mode) == 0o700

    worker = terminal.run("sam3-worker", "--gpus", "cpu", "--until-empty", "--allow-control")
    assert f"redis://:***@localhost:{port}/0" in worker.stderr
    bare = f"redis://localhost:{port}/0"
    stranger = terminal.run("sam3-worker", "--gpus", "cpu", code=3, SAM3_BROKER_URL=bare)
    assert stranger.stderr.count("\n") == 1
    assert "Authentication required; if a sam3-broker of yours is meant, unset SAM3_BROKER_URL" in stranger.stderr
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    for seen in (broker.output(), worker.stdout + worker.stderr, stranger.stderr, listed):
        assert password not in seen


def test_sam3_broker_listens_where_the_url_says_that_it_is_given(terminal: Terminal) -> None:
    port = free_port()
    broker = terminal.start("sam3-broker", SAM3_BROKER_URL=f"redis://localhost:{port}/0")
    wait_until(lambda: "SAM3_BROKER_URL is not set" in broker.output(), "the broker")
    assert f":{port}/0, its queue in " in broker.output()
    worker = terminal.run("sam3-worker", "--gpus", "cpu", "--until-empty")
    assert f"redis://:***@localhost:{port}/0" in worker.stderr


def test_a_server_program_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_VALKEY_BINARY", os.fspath(tmp_path / "nothing"))
    with pytest.raises((Unreachable, UsageError)) as refused:
        BundledBroker(tmp_path / "broker").start()
    assert "\n" not in str(refused.value)


def test_a_server_that_ends_before_it_is_configured_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM3_VALKEY_BINARY", os.fspath(tmp_path / "nothing"))
    broker = BundledBroker(tmp_path / "broker")
    configuration = broker._configuration

    def late() -> str:
        broker.wait()
        return configuration()

    monkeypatch.setattr(broker, "_configuration", late)
    with pytest.raises(Unreachable, match="the bundled broker did not start on port"):
        broker.start()


def test_the_bundled_broker_starts_in_a_folder_of_any_name(tmp_path: Path) -> None:
    for name in ("\u00fc \u041a \U0001f600", "a 'b' \"c\" \\n\\x41 $1 #", "latin \udcfc"):
        broker = BundledBroker(tmp_path / name, free_port(), "password")
        broker.start()
        try:
            assert any((tmp_path / name).glob("appendonly*"))
        finally:
            broker.stop()
