"""Asks the broker whether it answers, whether it gives us all rights, and which doorbells it holds. Knows no SQL."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from workers.broker.admission import doorbell_in
from workers.broker.contract import BadMessage
from workers.broker.rights import Refused, check_rights
from workers.errors import Unreachable, UsageError, first_line
from workers.settings import masked

# If a message was taken so long ago and its chunk is still not claimed, the process that took the message has died.
TAKEN_SECONDS = 60.0


def check_broker(app: Celery) -> list[str]:
    """Check that the broker answers and gives us all rights; return warnings about its configuration.

    Raises `Unreachable` if it does not, and `UsageError` for a wrong SAM3_BROKER_URL.
    """
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
        raise Unreachable(f"cannot reach the broker {url}: {reason}; {_advice(url, reason)}") from None


def _reason(error: Exception) -> str:
    return (first_line(error) or type(error).__name__).rstrip(".")


def _advice(url: str, reason: str) -> str:
    if url.startswith("rediss:") and "time" in reason.lower():  # "Timeout", "timed out": it waits for a Redis command
        return "if it speaks no TLS, write redis:// for rediss:// in SAM3_BROKER_URL"
    if "username-password pair" in reason or "DB index" in reason:  # it answers, so another one is no cure
        return "correct SAM3_BROKER_URL"
    if "Authentication required" not in reason:
        return "start one with sam3-broker, or set SAM3_BROKER_URL"
    return (
        "if a sam3-broker of yours is meant, unset SAM3_BROKER_URL and use its SAM3_STATE_DIR; else "
        "set SAM3_BROKER_URL=redis://:password@host:6379/0, or start your own with sam3-broker --port 6380"
    )


def _redis(connection: Any) -> Any:
    """The Redis client of kombu's channel, which uses TLS or a socket as the URL says."""
    return connection.default_channel.client


def _policy_warnings(client: Any) -> list[str]:
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except redis.RedisError:
        return []  # this user may not ask for it
    if policy == "noeviction":
        return []
    return [f"the broker evicts keys when its memory is full (maxmemory-policy {policy}); set it to noeviction"]


class Doorbells:
    """The doorbells of our database that the broker holds: those in the queue, and those that a node has just taken.

    Its methods raise `Unreachable`.
    """

    def __init__(self, app: Celery, taken_seconds: float = TAKEN_SECONDS) -> None:
        self._app = app
        self._queue: str = app.conf.task_default_queue
        self._taken_seconds = taken_seconds

    def count(self) -> int:
        """How many doorbells wait or were just taken. Older ones do not count: a killed node keeps them for a day."""
        with self._channel() as channel:
            waiting = channel.client.llen(self._queue)
            return int(waiting) + int(channel.client.zcount(channel.unacked_index_key, *self._times()))

    def chunks(self) -> set[int]:
        """Ids of the chunks whose doorbell waits or was just taken."""
        with self._channel() as channel:
            client = channel.client
            taken = client.zrangebyscore(channel.unacked_index_key, *self._times())
            waiting = [_loads(raw) for raw in client.lrange(self._queue, 0, -1)]
            in_hand = [_loads(raw) for raw in client.hmget(channel.unacked_key, taken)] if taken else []
        messages = waiting + [entry[0] for entry in in_hand if isinstance(entry, list) and entry]
        return {chunk for chunk in map(_chunk_of, messages) if chunk is not None}

    def _times(self) -> tuple[float, float]:
        """Earliest and latest time at which a living node can have taken a message that is not answered yet.

        The clocks of other machines may be some hours ahead, but not a day.
        """
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
        return None  # no message of ours


def _chunk_of(message: Any) -> int | None:
    """The chunk id in a queued Celery message; None for a message that is no doorbell."""
    try:
        return doorbell_in(message).chunk
    except BadMessage:
        return None
