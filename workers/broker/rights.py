"""What a node does on the broker, tried once each, so that a user who may do only half is refused before anything runs.

Redis (7 and later) gives each user commands, keys and channels one by one. Nothing that is tried leaves a trace: what
is written is removed in the same transaction, and messages go to nobody.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

# All that a node, a producer and Flower need. All channels, since kombu subscribes to patterns, and Redis holds those
# against its own letter by letter. The tests follow it literally.
RULES = "resetkeys ~sam3* ~_kombu.* ~*.pidbox resetchannels &* +@all -@dangerous"
PROBE = "sam3-check"

Trial = Callable[[Any], object]


class Refused(Exception):
    """The broker's user lacks a right; the message says which, and the rule that gives it."""


def check_rights(app: Celery, connection: Any) -> None:
    """Try everything on a connection that is not open yet.

    Raises `Refused`; other errors are those of a broker that cannot be reached.
    """
    with _noticing("the connection", connection.userid):
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
        with _noticing(what, connection.userid):
            trial(channel.client)


@contextmanager
def _noticing(what: str, user: str | None) -> Iterator[None]:
    """Turn a refused permission, wherever in kombu it was wrapped, into `Refused`."""
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
    """`last`: the queue's messages of least priority, of which there are none."""
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
    """As a node does before it restores what others had taken; the release of a lock is a script."""
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
    """A command to a node that does not exist, and an event that nobody knows."""
    app.control.broadcast("ping", destination=[f"nobody@{PROBE}"], connection=connection)
    with app.events.Dispatcher(connection) as events:
        events.send(PROBE)
