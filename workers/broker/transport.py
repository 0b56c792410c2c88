"""Makes kombu's Redis transport more careful. Knows no tasks and no settings.

A server that refuses writes counts as down. A finished message frees its place even if the broker cannot be told. A
message that is not ours never reaches kombu, which would end the process. The transport is registered under the names
of the URL schemes, so that each connection of ours uses it.
Source: https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html.
"""

import logging
from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis

from workers.broker.admission import COMMANDS, Dropped, checked_other, rewritten_command, rewritten_doorbell
from workers.broker.contract import BadMessage, is_queue
from workers.errors import first_line

dropped = Dropped()
log = logging.getLogger(__name__)


class _FreeingQoS(kombu_redis.QoS):
    """Frees the place of a finished message even if the broker could not be told that it is finished.

    kombu would count the message as in hand for ever, and a node, which may have one message at a time, would never
    take another. The broker delivers the message again after a day, when its chunk has ended long ago.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except (redis.RedisError, OSError) as error:
            log.warning("the broker did not hear that a doorbell was answered: %s", first_line(error))
            virtual.QoS.ack(self, delivery_tag)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client, leftmost)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            dropped.add(self.unacked_key, BadMessage("no message"))
            self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]  # missing in kombu's type stubs


class _Client(redis.Redis):
    """Gives kombu only messages that pass `workers.broker.admission`; instead of others it gives none."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        response = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not response:
            return response
        key, raw = response
        queue = key.decode(errors="replace").partition(kombu_redis.Channel.sep)[0]
        try:
            return key, rewritten_doorbell(queue, raw) if is_queue(queue) else checked_other(raw)
        except BadMessage as why:
            dropped.add(queue, why)
            return None

    def pubsub(self, **options: Any) -> redis.client.PubSub:
        return _Subscription(self.connection_pool, **options)


class _Subscription(redis.client.PubSub):
    """Gives kombu only published messages that pass `workers.broker.admission`."""

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        response = super().parse_response(block, timeout)  # type: ignore[no-untyped-call]
        if not isinstance(response, list) or response[0] not in (b"message", b"pmessage"):
            return response
        *where, raw = response
        exchange = where[-1].decode(errors="replace").partition(".")[2].partition("/")[0]  # "/0.celeryev/task.sent"
        try:
            return [*where, rewritten_command(exchange, raw) if exchange.endswith(COMMANDS) else checked_other(raw)]
        except BadMessage as why:
            dropped.add(exchange, why)
            return [*where, b""]  # kombu ignores an empty message


class WritingChannel(kombu_redis.Channel):
    """A channel that opens only on a server that takes writes.

    After a failover the former primary comes back as a replica: it answers pings, but refuses all that we do. kombu
    tries the next server of a URL only if it cannot connect to this one, so the constructor raises `ConnectionError`.
    """

    QoS = _FreeingQoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self._remove_strange(self.unacked_key.removesuffix("-unacked"))
            self.client.hdel(self.unacked_key, "")  # deletes nothing, but a replica refuses it as a write
        except redis.exceptions.ReadOnlyError as error:
            self.close()
            raise redis.ConnectionError("it is a replica, which takes no writes") from error

    def _remove_strange(self, queue: str) -> None:
        """Delete our keys that have the wrong Redis type, since no node could work with them."""
        named: Any = self  # as Any, since kombu's type stubs lack some of these attributes
        kinds = {named.unacked_key: b"hash"}
        kinds |= dict.fromkeys((named.unacked_index_key, named.keyprefix_binding_deadlines), b"zset")
        kinds |= {named._q_for_pri(queue, priority): b"list" for priority in named.priority_steps}
        kinds |= {self.keyprefix_queue % exchange: b"set" for exchange in (queue, "celeryev", "celery.pidbox")}
        types = self.client.pipeline(transaction=False)
        for key in kinds:
            types.type(key)
        found = zip(kinds.items(), types.execute(), strict=True)
        if strange := [key for (key, kind), actual in found if actual not in (kind, b"none")]:
            dropped.add(queue, BadMessage(f"{len(strange)} keys of another type"))
            self.client.delete(*strange)

    def _get_client(self) -> type[redis.Redis]:
        return _Client


class SentinelChannel(WritingChannel, kombu_redis.SentinelChannel):
    """A `WritingChannel` on the server that the sentinels name as the primary."""


class Transport(kombu_redis.Transport):
    """kombu's transport for redis:// and rediss:// with a `WritingChannel`."""

    Channel = WritingChannel

    def _get_errors(self) -> Any:
        return _with_read_only(super()._get_errors())  # type: ignore[misc]  # missing in kombu's type stubs


class SentinelTransport(kombu_redis.SentinelTransport):
    """kombu's transport for sentinel:// with a `SentinelChannel`."""

    Channel = SentinelChannel

    def _get_errors(self) -> Any:
        return _with_read_only(super()._get_errors())  # type: ignore[misc]  # missing in kombu's type stubs


def _with_read_only(errors: Any) -> Any:
    """Count `ReadOnlyError` as a lost connection: the primary became a replica while we were connected to it."""
    return errors._replace(connection_errors=(*errors.connection_errors, redis.exceptions.ReadOnlyError))


def register() -> None:
    """Make kombu use the transports of this module for URLs of these schemes, in the whole process."""
    ours = {"redis": "Transport", "rediss": "Transport", "sentinel": "SentinelTransport"}
    TRANSPORT_ALIASES.update({scheme: f"{__name__}:{name}" for scheme, name in ours.items()})
