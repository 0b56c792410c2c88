"""A Valkey server that tests may kill, stop, empty and start again on the same port; ends with the test process."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import redis

from tests.terminals import wait_until
from workers.fleet.processes import with_parent
from workers.fleet.valkey import free_port, server_binary


class Valkey:
    """Keeps its queue over a restart, like the server of `sam3-broker`. `within`: what stands before its command."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", within: tuple[str, ...] = ()) -> None:
        folder.mkdir()
        self.folder, self.address, self._within = folder, address, within
        self.port = 6379 if within else free_port()  # a namespace of its own has all ports free
        self.url = f"redis://{address}:{self.port}/0"
        self._socket = folder / "s"  # the way to it from here, wherever its address is
        self.client: Any = redis.Redis(unix_socket_path=str(self._socket), socket_connect_timeout=1, socket_timeout=5)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the server answers, its append-only file read."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                with_parent([*self._within, server_binary(), "-"]),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(self._configuration().encode())
        self._process.stdin.close()

    def _configuration(self) -> str:
        return "\n".join(
            [
                f"bind {self.address}",
                "protected-mode no",
                f"port {self.port}",
                f"unixsocket {json.dumps(str(self._socket))}",
                f"dir {json.dumps(str(self.folder))}",
                'save ""',
                "appendonly yes",
                "appendfsync everysec",
                "maxmemory-policy noeviction\n",
            ]
        )

    def wait_until_ready(self) -> None:
        wait_until(self.answers, "Valkey")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def forget(self) -> None:
        """Delete what a killed server kept."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.name != "server.log":
                path.rmdir() if path.is_dir() else path.unlink()

    def close(self) -> None:
        self.client.close()
        self.kill()

    def is_silent(self, queue: str) -> bool:
        """Whether no doorbell waits in this queue, and none is in anybody's hands."""
        return not self.client.llen(queue) and not self.client.hlen(f"{queue}-unacked")
