"""The files in deploy/: what .ci/deploy finds in them, and what no validator knows about them."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import yaml

from db.doorbells import RungChunk
from tests.terminals import PATIENCE
from workers.broker.app import create_app
from workers.broker.connection import Doorbells, check_broker
from workers.broker.contract import Doorbell
from workers.fleet.dispatch import publisher
from workers.fleet.valkey import server_binary
from workers.settings import Settings, load_settings, unknown_variables

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = "systemd/sam3-worker@.service"
# The one tool that is no Python package. CI cannot miss it: .ci/deploy fails there without it.
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)
PASSWORD = "0123456789abcdef"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEPLOY, tmp_path / "deploy"))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])


def validate(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("bash") or "bash", str(ROOT / ".ci/deploy"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def plant(file: Path, right: str, wrong: str) -> None:
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, wrong, 1))


@needs_systemd
def test_the_validators_find_nothing() -> None:
    result = validate(DEPLOY)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("compose.yaml", "restart: unless-stopped", "restrat: unless-stopped", "restrat"),
        ("compose.yaml", "condition: service_healthy", "condition: service_helthy", "service_helthy"),
        ("compose.host.yaml", "ports:", "prots:", "prots"),
        ("worker.Dockerfile", "WORKDIR /home", "WORKDER /home", "'W'"),
        ("producer.Dockerfile", "python:3.12-slim-trixie", "python:latest", "DL3007"),
        pytest.param(UNIT, "KillMode=", "KilMode=", "KilMode", marks=needs_systemd),
        pytest.param(UNIT, "TimeoutStopSec=90", "TimeoutStopSec=soon", "soon", marks=needs_systemd),
        pytest.param(UNIT, "ExecStart=/opt/", "ExecStart=/otp/", "/otp/", marks=needs_systemd),
    ],
)
def test_a_planted_mistake_is_found_and_its_file_named(
    copy: Path, file: str, right: str, wrong: str, complaint: str
) -> None:
    plant(copy / file, right, wrong)
    result = validate(copy)
    assert result.returncode == 1
    assert str(copy / file) in result.stderr
    assert complaint in result.stderr


def test_a_folder_without_units_does_not_pass_as_clean(copy: Path) -> None:
    shutil.rmtree(copy / "systemd")
    result = validate(copy)
    assert result.returncode == 1
    assert "expected" in result.stderr


def test_a_missing_validator_fails_instead_of_being_skipped(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "mktemp", "rm"):
        (tmp_path / tool).symlink_to(cast(str, shutil.which(tool)))
    result = validate(DEPLOY, PATH=str(tmp_path))
    assert result.returncode == 1
    assert "systemd-analyze: not found; apt-get install systemd" in result.stderr


def test_workers_are_given_longer_to_stop_than_they_take_to_drain(services: dict[str, Any]) -> None:
    default = Settings.model_fields["grace"].default
    unit = (DEPLOY / UNIT).read_text()
    stops = [(value("TimeoutStopSec", unit), shlex.split(value("ExecStart", unit)))]
    stops += [(worker["stop_grace_period"], worker["command"]) for worker in workers(services).values()]
    for stop, command in stops:
        grace = float(command[command.index("--grace") + 1])
        assert grace >= default
        assert float(stop.removesuffix("s")) >= grace + 15


def test_a_wrong_setting_does_not_restart_the_unit_for_ever() -> None:
    unit = (DEPLOY / UNIT).read_text()
    assert value("RestartPreventExitStatus", unit) == "2"
    assert value("User", unit) not in ("", "root", "0")


def test_a_worker_that_is_stopped_while_it_starts_is_no_failed_unit() -> None:
    assert value("SuccessExitStatus", (DEPLOY / UNIT).read_text()) == str(128 + signal.SIGTERM)


def test_every_setting_of_the_template_is_one_that_we_know() -> None:
    assert unknown_variables(template()) == []


def test_the_defaults_that_the_template_shows_are_the_defaults() -> None:
    shown = {"SAM3_BATCH_SIZE": "batch_size", "SAM3_DTYPE": "dtype", "SAM3_COMPILE": "compile", "SAM3_MODEL": "model"}
    defaults = {variable: str(Settings.model_fields[field].default) for variable, field in shown.items()}
    assert {variable: template()[variable] for variable in shown} == defaults


def test_every_variable_of_compose_is_in_the_template_and_the_other_way_round(services: dict[str, Any]) -> None:
    text = "".join((DEPLOY / name).read_text() for name in ("compose.yaml", "compose.host.yaml"))
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    passed_on = {key for service in services.values() for key, given in environment(service).items() if given is None}
    # Compose reads the first itself and makes the URLs from the passwords.
    elsewhere = {"COMPOSE_FILE", "SAM3_BROKER_URL", "SAM3_DATABASE_URL"}
    assert used | passed_on == set(template()) - elsewhere


def test_every_setting_that_compose_makes_is_one_that_we_know(services: dict[str, Any]) -> None:
    assert unknown_variables({key for service in services.values() for key in environment(service)}) == []


def test_no_file_holds_a_secret(services: dict[str, Any]) -> None:
    for service in services.values():
        for key, given in environment(service).items():
            if re.search("PASSWORD|AUTH|TOKEN|SECRET|ACCESS_KEY|ACCOUNT|^AWS_", key):
                assert given is None or given.startswith("${"), key
            elif key.endswith("_URL"):
                assert re.search(r"//\w*:\$\{\w+:\?[^}]+\}@", given), key
    for name in (
        "BROKER_PASSWORD",
        "POSTGRES_PASSWORD",
        "FLOWER_BASIC_AUTH",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AZURE_STORAGE_ACCOUNT_KEY",
    ):
        assert template()[name] == ""


def test_nothing_is_published_beyond_the_hosts_loopback(services: dict[str, Any]) -> None:
    on_host = yaml.safe_load((DEPLOY / "compose.host.yaml").read_text())["services"]
    published = [port for each in (services, on_host) for service in each.values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in services["broker"]
    assert "ports" not in services["database"]


def test_images_are_mounted_read_only_and_under_the_same_path(services: dict[str, Any]) -> None:
    for service in (*workers(services).values(), services["producer"]):
        [mount] = [volume for volume in service["volumes"] if isinstance(volume, dict)]
        assert mount["read_only"] is True
        assert mount["source"].startswith("${IMAGES_DIR:?")
        assert mount["target"] == "${IMAGES_DIR}"


def test_each_worker_has_a_gpu_and_a_name_of_its_own(services: dict[str, Any]) -> None:
    gpus = []
    for name, worker in workers(services).items():
        [device] = worker["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"], worker["hostname"]) == ("nvidia", ["gpu"], name)
        gpus += device["device_ids"]
    assert gpus
    assert len(set(gpus)) == len(gpus)


def test_services_wait_only_for_what_can_become_ready(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, rule in service.get("depends_on", {}).items():
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert services[name]["restart"] == "no"  # one that is started again never completes


@pytest.mark.parametrize("image", ["producer", "worker"])
def test_an_image_is_built_from_all_that_the_package_is_built_from(image: str) -> None:
    built_from = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    ignored = (DEPLOY / f"{image}.Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert let_in == {*built_from["only-include"], "pyproject.toml", "README.md", "LICENSE"}


def test_our_containers_run_without_root_and_our_commands_exist(services: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commands = [shlex.split(value("ExecStart", (DEPLOY / UNIT).read_text()))[0].rpartition("/")[2]]
    commands += [service["command"][0] for service in services.values() if "build" in service and "command" in service]
    for file in DEPLOY.glob("*.Dockerfile"):
        text = file.read_text()
        assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "10001:10001"
        assert set(re.findall(r"--extra (\w+)", text)) <= set(project["optional-dependencies"])
        commands += re.findall(r'^CMD \["([\w-]+)"', text, re.MULTILINE)
    assert set(commands) <= set(project["scripts"])
    assert "--extra worker" not in (DEPLOY / "producer.Dockerfile").read_text()


@pytest.fixture
def broker_url(services: dict[str, Any], tmp_path: Path) -> Iterator[str]:
    """The broker as compose starts it, on a free port of this machine; the URL has a password."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What the container's image calls valkey-server, kept to this machine and the test's folder.
    program = tmp_path / "valkey-server"
    program.write_text(f'#!/bin/sh\nexec "{server_binary()}" "$@" --port {port} --bind 127.0.0.1\n')
    program.chmod(0o755)
    shell, flags, script = services["broker"]["command"]
    server = subprocess.Popen(
        [shell, flags, script.replace("$$", "$")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "BROKER_PASSWORD": PASSWORD},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, server)
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


def test_the_brokers_password_is_asked_for_and_not_on_its_command_line(broker_url: str) -> None:
    stranger = redis.Redis.from_url(broker_url.replace(PASSWORD, "wrong"))
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis.from_url(broker_url) as client:
        pid = client.info("server")["process_id"]
        if Path("/proc").is_dir():
            assert PASSWORD not in Path(f"/proc/{pid}/cmdline").read_text()


def test_the_broker_writes_its_queue_to_disk_and_refuses_to_be_administered(broker_url: str) -> None:
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    with redis.Redis.from_url(broker_url) as client:
        assert {key: client.config_get(key)[key] for key in wanted} == wanted
        for command in ("CONFIG SET appendonly no", "SHUTDOWN", "FLUSHALL", "KEYS *"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())


def test_our_own_traffic_passes_the_brokers_rules(broker_url: str) -> None:
    app = create_app(load_settings(broker_url=broker_url))
    assert check_broker(app) == []
    assert Doorbells(app).count() == 0
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("sam3")
        publisher(app)([RungChunk(1, "faces", 2, 2, 3, 4, "a.jpg", database="")])
        assert queue.get(timeout=PATIENCE).payload[0] == [Doorbell("", 1, 2, 3).to_message()]
        queue.close()
    assert app.control.ping(timeout=0.2) == []  # broadcasts, as Flower does


def workers(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if name.startswith("worker-")}


def environment(service: dict[str, Any]) -> dict[str, Any]:
    return cast(dict[str, Any], service.get("environment", {}))


def template() -> dict[str, str]:
    """The variables of example.env, those in comments too."""
    lines = (DEPLOY / "example.env").read_text()
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", lines, re.MULTILINE))


def value(key: str, unit: str) -> str:
    [found] = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    return str(found)


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the broker did not start")
