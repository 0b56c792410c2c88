"""What a process reads from its environment, and what it says about a wrong value."""

import ssl
from pathlib import Path

import pytest
from sqlalchemy import text

from db.session import connect
from workers.broker.app import create_app
from workers.errors import UsageError
from workers.settings import load_settings, masked, unknown_variables

pytestmark = pytest.mark.usefixtures("no_settings_of_this_machine")


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


SCHEMES = "only redis://, rediss://, redis+socket://, sentinel:// are supported"
SPELL = "write redis://:password@host:6379/0; a password spells / # ? @ ; as %2F %23 %3F %40 %3B"
WRONG = {
    "text": ("BATCH_SIZE", "many", "Input should be a valid integer, unable to parse string as an integer"),
    "zero": ("BATCH_SIZE", "0", "Input should be greater than or equal to 1"),
    "huge": ("BATCH_SIZE", "1000000000", "Input should be less than or equal to 256"),
    "an exponent": ("BATCH_SIZE", "1e9", "Input should be a valid integer, unable to parse string as an integer"),
    "another type": ("DTYPE", "fp8", "Input should be 'auto', 'mixed', 'fp32' or 'bf16'"),
    "negative": ("GRACE", "-1", "Input should be greater than or equal to 0"),
    "NaN": ("LEASE_SECONDS", "nan", "Input should be a finite number"),
    "infinite": ("LEASE_SECONDS", "inf", "Input should be a finite number"),
    "no time": ("VISIBILITY_SECONDS", "0", "Input should be greater than or equal to 1"),
    "sentinels without a name": (
        "BROKER_URL",
        "sentinel://host:26379/0",
        "sentinel:// needs the name of its master: sentinel://host:26379/0?master_name=mymaster",
    ),
    "amqp": ("BROKER_URL", "amqp://localhost", SCHEMES),
    "sqs": ("BROKER_URL", "sqs://key:canary@queue", SCHEMES),
    "a cluster": ("BROKER_URL", "redis+cluster://:canary@broker", SCHEMES),
    "the second of two": ("BROKER_URL", "redis://one;amqp://:canary@two", SCHEMES),
    "no scheme": ("BROKER_URL", "localhost:6379", SCHEMES),
    "port": ("BROKER_URL", "redis://:canary@broker:99999/0", SPELL),
    "password with a bare slash": ("BROKER_URL", "redis://:canary/canary@broker:6379/0", SPELL),
    "password with a bare @ before a slash": ("BROKER_URL", "redis://:can@ary/canary@broker:6379/0", SPELL),
    "password of digits before a question mark": ("BROKER_URL", "redis://me:1234?canary@broker:6379/0", SPELL),
    "password of digits before a hash": ("BROKER_URL", "redis://me:1234#canary@broker:6379/0", SPELL),
}


@pytest.mark.parametrize(("name", "value", "fault"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_refused_in_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fault: str
) -> None:
    monkeypatch.setenv(f"SAM3_{name}", value)
    assert refusal() == f"SAM3_{name}: {fault}"


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_BATCH_SIZE", "0")
    monkeypatch.setenv("SAM3_BROKER_URL", "amqp://:canary@broker")
    monkeypatch.setenv("SAM3_GRACE", "-1")
    assert refusal() == (
        f"SAM3_BROKER_URL: {SCHEMES}; SAM3_BATCH_SIZE: Input should be greater than or equal to 1; "
        "SAM3_GRACE: Input should be greater than or equal to 0"
    )


UNVERIFIED = {
    "nothing said": "rediss://broker:6380/0",
    "none": "rediss://broker:6380/0?ssl_cert_reqs=none",
    "optional": "rediss://broker:6380/0?ssl_cert_reqs=optional",
    "CERT_NONE": "rediss://broker:6380/0?ssl_cert_reqs=CERT_NONE",
    "both": "rediss://broker:6380/0?ssl_cert_reqs=required&ssl_cert_reqs=none",
    "said in the fragment": "rediss://broker:6380/0?ssl_cert_reqs=none#ssl_cert_reqs=required",
    "said in the password": "rediss://:ssl_cert_reqs=required@broker:6380/0",
    "only the first of two": "rediss://one/0?ssl_cert_reqs=required;rediss://two/0",
    "only the second of two": "redis://one/0;rediss://two/0",
}


@pytest.mark.parametrize("url", UNVERIFIED.values(), ids=UNVERIFIED)
def test_tls_without_verification_is_refused(url: str) -> None:
    assert refusal(broker_url=url) == "SAM3_BROKER_URL: rediss:// needs ?ssl_cert_reqs=required"


@pytest.mark.parametrize("value", ["required", "CERT_REQUIRED"])
def test_tls_with_verification_is_taken_and_reaches_the_connection(value: str) -> None:
    one = f"rediss://broker:6380/0?ssl_cert_reqs={value}"
    for url in (one, f"{one};{one}"):
        with create_app(load_settings(broker_url=url)).connection_for_read() as connection:
            assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}


@pytest.mark.parametrize("value", ["false", "False", "no", "0", "", "true&ssl_check_hostname=false"])
def test_tls_with_any_name_in_the_certificate_is_refused(value: str) -> None:
    url = f"rediss://broker:6380/0?ssl_cert_reqs=required&ssl_check_hostname={value}"
    assert refusal(broker_url=url) == (
        "SAM3_BROKER_URL: rediss:// checks the server's name in its certificate: leave ssl_check_hostname out"
    )
    assert load_settings(broker_url=url.removesuffix(value) + "true").broker_url


def test_a_lease_must_outlast_three_heartbeats() -> None:
    assert refusal(lease_seconds=20, heartbeat_seconds=10) == (
        "SAM3_LEASE_SECONDS=20 must be at least three times SAM3_HEARTBEAT_SECONDS=10"
    )
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


def test_hosts_and_networks_of_images_are_checked_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_IMAGE_HOSTS", "a.example.com, *.example.org")
    monkeypatch.setenv("SAM3_IMAGE_NETWORKS", "10.1.0.0/16")
    assert load_settings().image_hosts == "a.example.com, *.example.org"
    monkeypatch.setenv("SAM3_IMAGE_HOSTS", "https://a.example.com")
    monkeypatch.setenv("SAM3_IMAGE_NETWORKS", "10.1.0.1/16")
    with pytest.raises(UsageError, match=r"SAM3_IMAGE_HOSTS: 'https://a\.example\.com' is no host; .*_NETWORKS: "):
        load_settings()
