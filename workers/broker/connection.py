"""The connection to the broker: whether it answers and admits us, and which doorbells it holds. Knows no SQL."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from workers.broker.admission import doorbell_in
from workers.broker.rights import Refused, check_rights
from workers.contract import BadMessage
from workers.errors import Unreachable, UsageError, first_line
from workers.settings import masked

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
