"""A Valkey server that serves the tests of a process one after the other, as new for each. Knows no messages."""

import secrets
from pathlib import Path
from typing import Any

import redis

from workers.fleet.valkey import BundledBroker


class ReusedBroker:
    """The server that sam3-run starts, asking for a password.

    Each test gets another password, so that a process of an earlier test that still lives does not get in. A server
    that a test has ended or set otherwise is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: BundledBroker | None = None
        self._shape: Any = None
        self.url = ""

    def take(self) -> None:
        """See to a server that is as new; `url` is how its test reaches it."""
        if self._server is None or not self._is_as_new(self._server):
            self.close()
            self._server = BundledBroker(self._folder)
            self._server.start()
            self.url = self._server.url
            with redis.Redis.from_url(self.url) as client:
                self._shape = _shape(client)

    def give_back(self) -> None:
        """Forget what the test left, and break the connections that it left."""
        password = secrets.token_urlsafe(24)
        try:
            with redis.Redis.from_url(self.url, socket_timeout=10) as client:
                client.config_set("requirepass", password)
                for kind in ("normal", "pubsub"):
                    client.client_kill_filter(_type=kind, skipme=True)
                client.flushall()
        except redis.RedisError:
            self.close()
        else:
            self.url = f"redis://:{password}@{self.url.rpartition('@')[2]}"

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _is_as_new(self, server: BundledBroker) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=10) as client:
                return bool(_shape(client) == self._shape)
        except redis.RedisError:
            return False


def _shape(client: redis.Redis) -> Any:
    """Something that is different once a setting, a user or the rights of one were changed."""
    settings = {name: value for name, value in client.config_get("*").items() if name != "requirepass"}
    rights = client.acl_getuser("default") or {}
    return settings, client.acl_users(), {name: value for name, value in rights.items() if name != "passwords"}
