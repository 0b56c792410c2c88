"""All settings of a process, read once from `SAM3_*` variables when it starts. Knows no flags, connects to nothing."""

import difflib
import fcntl
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import platformdirs
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.values import LEASE_SECONDS
from workers.errors import UsageError
from workers.machine.cores import usable_cores
from workers.machine.hosts import read_hosts, read_networks
from workers.machine.variables import PREFIX, own_variables

BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")


def default_state_dir() -> Path:
    """The user's state folder, such as ~/.local/state/sam3-queue on Linux."""
    return platformdirs.user_state_path("sam3-queue")


def _default_database_url(fields: dict[str, Any]) -> str:
    from db.session import sqlite_url  # not where the URL is given, as in a Celery parent, which needs no SQL

    return sqlite_url(fields["state_dir"] / "sam3.db")


def url_file(state_dir: Path) -> Path:
    """The file in which a running sam3-broker publishes its URL."""
    return state_dir / "broker" / "url"


def published_url(state_dir: Path) -> str | None:
    """The URL of the sam3-broker that runs with this state folder, if one does."""
    with suppress(OSError), url_file(state_dir).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or None
    return None  # there is no such file, or the broker that wrote it has ended


def _default_broker_url(fields: dict[str, Any]) -> str:
    return published_url(fields["state_dir"]) or "redis://localhost:6379/0"


def _broker_url(url: str) -> str:
    """Check the URL of the broker. Brokers that replace each other are separated by semicolons."""
    for one in url.split(";"):
        if one.partition("://")[0] not in BROKER_SCHEMES:
            raise ValueError(f"only {', '.join(name + '://' for name in BROKER_SCHEMES)} are supported")
        try:
            parts = urlsplit(one)
            _ = parts.port  # raises ValueError if the password has a / that is not escaped
            if parts.scheme != "redis+socket" and "@" in parts.path + parts.query + parts.fragment:
                raise ValueError  # the rest of a password with such a character, behind what looks like a host
        except ValueError:
            raise ValueError(
                "write redis://:password@host:6379/0; a password spells / # ? @ ; as %2F %23 %3F %40 %3B"
            ) from None
        # By default kombu does not verify the server, which makes TLS pointless. If a key comes several times, kombu
        # uses one of its values, so all of them must be right.
        asked = parse_qs(parts.query).get("ssl_cert_reqs", [""])
        if parts.scheme == "rediss" and not {value.lower() for value in asked} <= {"required", "cert_required"}:
            raise ValueError("rediss:// needs ?ssl_cert_reqs=required")
        named = parse_qs(parts.query, keep_blank_values=True).get("ssl_check_hostname", ["true"])
        if not {value.lower() for value in named} <= {"true", "yes", "1"}:
            raise ValueError("rediss:// checks the server's name in its certificate: leave ssl_check_hostname out")
        if parts.scheme == "sentinel" and not _MASTER.search(url):
            raise ValueError("sentinel:// needs the name of its master: sentinel://host:26379/0?master_name=mymaster")
    return url


def _checked(read: Callable[[str], object]) -> Callable[[str | None], str | None]:
    """Check a text by reading it once; it is read again where it is used."""

    def checked(text: str | None) -> str | None:
        read(text or "")
        return text

    return checked


_MASTER = re.compile(r"[?&]master_name=([^&;]+)")


def sentinel_master(url: str) -> tuple[str, str | None]:
    """Split a URL into the URL for kombu and the name of the master that sentinels are asked for, or None."""
    found = _MASTER.search(url)
    return (url, None) if found is None else (_MASTER.sub("", url), unquote(found[1]))


class Settings(BaseSettings):
    """The settings; flags of a command override them. The launcher gives its own settings to its nodes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False
    )

    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Folder for SQLite, locks and the bundled broker's files; your state folder if not set.",
    )
    broker_url: Annotated[str, AfterValidator(_broker_url)] = Field(
        default_factory=_default_broker_url,
        description="redis://, rediss://, redis+socket:// or sentinel://; that of sam3-broker here if not set.",
    )
    shared: bool = Field(
        False, description="Let others look into databases, logs and state, as far as the umask allows."
    )
    database_url: str = Field(
        default_factory=_default_database_url,
        description="sqlite:////path/to/file.db or postgresql://user@host/name; sam3.db in state_dir if not set.",
    )
    model: str = Field("facebook/sam3", description="Hub id, folder, pair A+B, or tiny (bundled).")

    # for workers
    batch_size: int = Field(8, ge=1, le=256, description="Images of one forward pass.")
    decode_threads: int | None = Field(
        None, ge=1, le=64, description="Threads that read images; as many as the node has cores, 2 to 8, if not set."
    )
    dtype: Literal["auto", "mixed", "fp32", "bf16"] = Field("auto", description="Numbers that the model computes with.")
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="Compile the model: auto does on a GPU, for a run that is long enough to gain by it."
    )
    segmenter: str | None = Field(None, description="module:factory of what stands in for the real model.")
    grace: float = Field(60, ge=0, description="Seconds for the batch in hand when asked to stop.")
    allow_control: bool = Field(False, description="Obey Celery's remote control by the broker, beyond looking.")
    image_hosts: Annotated[str | None, AfterValidator(_checked(read_hosts))] = Field(
        None,
        description="Hosts that https images are fetched from, such as images.example.com,*.example.org; else none.",
    )
    image_networks: Annotated[str | None, AfterValidator(_checked(read_networks))] = Field(
        None, description="Private networks that such hosts may be in, such as 10.1.0.0/16."
    )
    decode_seconds: float = Field(60, gt=0, description="An image that takes longer to read fails with timeout.")

    # Times in seconds. No lease and no rest that results from them may be longer than `db.times.LONGEST_SECONDS`.
    lease_seconds: float = Field(
        LEASE_SECONDS, gt=0, le=3600, description="A chunk whose worker is silent for so long is taken back."
    )
    heartbeat_seconds: float = Field(10, gt=0, description="Between two signs of life of a worker.")
    reconcile_seconds: float = Field(15, gt=0, le=1200, description="Between two looks for what was lost.")
    absent_seconds: float = Field(30, gt=0, description="A doorbell missing twice, this far apart, is rung again.")
    patience_seconds: float = Field(
        300, ge=0, description="Workers wait so long for a database that is away or only reads before it is a fault."
    )
    stall_seconds: float = Field(600, gt=0, description="A worker that finishes nothing for so long loses its chunk.")
    fault_pause_seconds: float = Field(
        10, ge=0, le=600, description="After a fault of the surroundings, before the next claim."
    )
    visibility_seconds: int = Field(
        24 * 3600, ge=1, description="When the broker hands out an unacknowledged message again."
    )

    # set by the launcher for each node
    identity: str = ""  # identity of the database whose doorbells the node answers
    node: str = "worker"  # gpu0, cpu1, ...
    device: Literal["cuda", "cpu"] = "cpu"
    cores: int = Field(default_factory=usable_cores, ge=1)  # cores of the machine that the node may use

    @model_validator(mode="after")
    def _heartbeat_fits_lease(self) -> Self:
        if 3 * self.heartbeat_seconds > self.lease_seconds:
            raise ValueError(
                f"SAM3_LEASE_SECONDS={self.lease_seconds:g} must be at least three times "
                f"SAM3_HEARTBEAT_SECONDS={self.heartbeat_seconds:g}"
            )
        return self


def load_settings(**flags: Any) -> Settings:
    """Read the settings of this process, without flags that are None. Raises `UsageError` with all that are wrong."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        # A default that is computed from a wrong setting is not an error of its own.
        said = [_fault(**fault) for fault in faults if fault["type"] != "default_factory_not_called"]
        raise UsageError("; ".join(said)) from None


def _fault(loc: tuple[int | str, ...], msg: str, **_: Any) -> str:
    name = f"{PREFIX}{str(loc[0]).upper()}: " if loc else ""
    return name + msg.removeprefix("Value error, ")


def unknown_variables(environment: Iterable[str], flags: Iterable[str] = ()) -> list[str]:
    """A warning for each `SAM3_*` variable that is neither a setting nor a flag of a command."""
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, *flags)}
    strange = sorted(own_variables(environment) - known)
    return [f"unknown setting {name}{_suggestion(name, known)}" for name in strange]


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = [variable.removeprefix(PREFIX) for variable in known]  # with the prefix all names would be similar
    close = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=1, cutoff=0.6)
    return f"; did you mean {PREFIX}{close[0]}?" if close else ""


def masked(url: str) -> str:
    """The URL, or several separated by semicolons, without passwords; also if it is malformed."""
    return re.sub(r"(password=)[^&;]*", r"\1***", re.sub(r"(://[^:/@;]*):[^;]*@", r"\1:***@", url))
