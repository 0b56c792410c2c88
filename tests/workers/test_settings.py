"""What a process reads from its environment, and what it says about a wrong value."""

import os
from pathlib import Path

import pytest
from sqlalchemy import text

from db.session import connect
from workers.errors import UsageError
from workers.settings import load_settings, masked, unknown_variables


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SAM3_")]:
        monkeypatch.delenv(name)


def refusal(**flags: object) -> str:
    with pytest.raises(UsageError) as refused:
        load_settings(**flags)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_without_any_variable_everything_has_a_default() -> None:
    settings = load_settings()
    assert settings.broker_url == "redis://localhost:6379/0"
    assert settings.database_url == f"sqlite:///{settings.state_dir / 'sam3.db'}"
    assert settings.state_dir.is_absolute()
    assert (settings.model, settings.batch_size, settings.dtype) == ("facebook/sam3", 8, "auto")
    assert (settings.lease_seconds, settings.heartbeat_seconds, settings.visibility_seconds) == (60, 10, 86400)


def test_a_flag_beats_the_environment_and_one_that_is_not_given_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_BATCH_SIZE", "4")
    assert load_settings(batch_size=None).batch_size == 4
    assert load_settings(batch_size=16).batch_size == 16


def test_a_state_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "what? 100%23 #1 é"
    sessions = connect(load_settings(state_dir=folder).database_url)
    with sessions.begin() as session:
        session.execute(text("SELECT 1"))
    sessions.kw["bind"].dispose()
    assert (folder / "sam3.db").is_file()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAM3_BATCH_SIZE", "many"),
        ("SAM3_BATCH_SIZE", "0"),
        ("SAM3_DTYPE", "fp8"),
        ("SAM3_GRACE", "-1"),
        ("SAM3_LEASE_SECONDS", "nan"),
        ("SAM3_BROKER_URL", "amqp://localhost"),
        ("SAM3_BROKER_URL", "localhost:6379"),
        ("SAM3_VISIBILITY_SECONDS", "0"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal().startswith(f"{name}: ")


def test_another_kind_of_broker_is_told_which_ones_work() -> None:
    assert "redis://, rediss://" in refusal(broker_url="sqs://queue")


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=none", "?ssl_cert_reqs=optional", "?ssl_cert_reqs=CERT_NONE"])
def test_tls_without_verification_is_refused(query: str) -> None:
    assert refusal(broker_url=f"rediss://broker:6380/0{query}") == (
        "SAM3_BROKER_URL: rediss:// needs ?ssl_cert_reqs=required"
    )


@pytest.mark.parametrize("value", ["required", "CERT_REQUIRED"])
def test_tls_with_verification_is_taken(value: str) -> None:
    url = f"rediss://broker:6380/0?ssl_cert_reqs={value}"
    assert load_settings(broker_url=url).broker_url == url


def test_a_password_with_a_bare_slash_is_explained_and_not_shown() -> None:
    said = refusal(broker_url="redis://:canary/horse@broker:6379/0")
    assert said.startswith("SAM3_BROKER_URL: ")
    assert "%2F" in said
    assert "canary" not in said
    assert "horse" not in said


def test_a_lease_must_outlast_three_heartbeats() -> None:
    said = refusal(lease_seconds=20, heartbeat_seconds=10)
    assert "SAM3_LEASE_SECONDS=20" in said
    assert "SAM3_HEARTBEAT_SECONDS=10" in said
    assert load_settings(lease_seconds=30, heartbeat_seconds=10).lease_seconds == 30


def test_a_misspelled_variable_is_answered_with_a_suggestion() -> None:
    assert unknown_variables(["SAM3_BATCHSIZE", "SAM3_BATCH_SIZE", "HOME"]) == [
        "unknown setting SAM3_BATCHSIZE; did you mean SAM3_BATCH_SIZE?"
    ]
    assert unknown_variables(["SAM3_W0"]) == ["unknown setting SAM3_W0"]


def test_a_flag_of_a_command_is_a_known_variable() -> None:
    assert unknown_variables(["SAM3_CHUNK_SIZE"], ["chunk_size"]) == []


def test_variables_that_container_engines_set_for_linked_services_are_ignored() -> None:
    linked = [
        "SAM3_BROKER_PORT",
        "SAM3_BROKER_PORT_6379_TCP",
        "SAM3_BROKER_PORT_6379_TCP_ADDR",
        "SAM3_BROKER_SERVICE_HOST",
        "SAM3_DB_SERVICE_PORT_POSTGRES",
    ]
    assert unknown_variables(linked) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:canary@broker:6379/0", "redis://:***@broker:6379/0"),
        ("redis://user:canary@broker:6379/0", "redis://user:***@broker:6379/0"),
        ("redis://:can%40ary@broker/0", "redis://:***@broker/0"),
        ("redis://:canary@canary@broker/0", "redis://:***@broker/0"),
        ("redis://:canary/canary@broker/0", "redis://:***@broker/0"),
        (
            "redis://:canary@one:6379;redis://:canary@two:6379",
            "redis://:***@one:6379;redis://:***@two:6379",
        ),
        ("redis://broker/0?password=canary&health=1", "redis://broker/0?password=***&health=1"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:canary@[::1", "redis://:***@[::1"),
        ("redis+socket:///run/valkey.sock", "redis+socket:///run/valkey.sock"),
    ],
)
def test_a_url_is_shown_without_its_password_however_it_is_written(url: str, shown: str) -> None:
    assert masked(url) == shown
