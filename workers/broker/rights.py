"""Tries each thing that a node does on the broker, so that a missing right is found before any work begins.

Redis (7 and later) gives each user rights on single commands, keys and channels. The trials leave no trace: what they
write is removed in the same transaction, and no node reads their messages. Knows no SQL and no tasks.
Source: https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

# The rule with all that a node, a producer and Flower need. It allows all channels, since kombu subscribes to patterns,
# and Redis allows a pattern only if the rule has exactly the same one. The tests use this rule as it is.
RULES = "resetkeys ~sam3* ~_kombu.* ~*.pidbox resetchannels &* +@all -@dangerous"
PROBE = "sam3-check"

Trial = Callable[[Any], object]


class Refused(Exception):
    """The broker's user lacks a right. The message says which right, and the rule that gives it."""


def check_rights(app: Celery, connection: Any) -> None:
    """Try all that a node does, on a connection that is not open yet.

    Raises `Refused` for a missing right; all other errors mean that the broker cannot be reached.
    """
    with _naming_the_right("the connection", connection.userid):
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
        channel = connection.default_channel
    queue: str = app.conf.task_default_queue
    trials: dict[str, Trial] = {
        "its queue": lambda client: _queue(client, queue, f"{queue}{channel.sep}{channel.priority_steps[-1]}"),
        "what it has taken": lambda client: _taken(client, channel),
        "scripts": lambda client: _lock(client, f"{queue}-check"),
        "bindings": lambda client: _bindings(client, channel),
        "subscribe": lambda client: _subscribe(client, channel),
        "publish": lambda client: _publish(app, connection),
    }
    for what, trial in trials.items():
        with _naming_the_right(what, connection.userid):
            trial(channel.client)


@contextmanager
def _naming_the_right(what: str, user: str | None) -> Iterator[None]:
    """Turn a missing right into `Refused`, also if kombu has wrapped the error of Redis in others."""
    try:
        yield
    except (OperationalError, redis.RedisError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, redis.exceptions.NoPermissionError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        told = str(cause).strip().rstrip(".")
        rule = f"ACL SETUSER {user or 'default'} {RULES}"
        raise Refused(f"refuses a node {what} ({told}); as its admin: {rule}") from None


def _queue(client: Any, queue: str, last: str) -> None:
    """`last` is the list of the queue's messages of the lowest priority, which is always empty."""
    client.pipeline().llen(queue).lrem(queue, 1, "").execute()
    client.pipeline().lpush(last, PROBE).lrem(last, 1, PROBE).execute()
    client.rpop(last)
    client.brpop(last, timeout=0.01)


def _taken(client: Any, channel: Any) -> None:
    index, entries = channel.unacked_index_key, channel.unacked_key
    write = client.pipeline().zadd(index, {PROBE: 0}).hset(entries, PROBE, "")
    write.zrem(index, PROBE).hdel(entries, PROBE).execute()
    client.zrevrangebyscore(index, 0, 0, start=0, num=1)
    client.transaction(lambda pipe: pipe.multi(), entries)


def _lock(client: Any, name: str) -> None:
    """Take and release a lock, as a node does before it restores messages. The release runs a script on the server."""
    lock = client.lock(name, timeout=1)
    if lock.acquire(blocking=False):
        lock.release()


def _bindings(client: Any, channel: Any) -> None:
    for key in (channel.keyprefix_queue % PROBE, f"{PROBE}.reply.celery.pidbox"):
        client.pipeline().sadd(key, PROBE).srem(key, PROBE).execute()
        client.exists(key)
    client.smembers(channel.keyprefix_queue % PROBE)


def _subscribe(client: Any, channel: Any) -> None:
    with client.pubsub() as subscription:
        for exchange in ("celery.pidbox", "celeryev/*"):
            subscription.psubscribe(f"{channel.keyprefix_fanout}{exchange}")
            subscription.get_message(timeout=1)


def _publish(app: Celery, connection: Any) -> None:
    """Send a command to a node that does not exist, and an event of an unknown kind."""
    app.control.broadcast("ping", destination=[f"nobody@{PROBE}"], connection=connection)
    with app.events.Dispatcher(connection) as events:
        events.send(PROBE)
