"""kombu's Redis transport, more careful: a server that refuses writes counts as down, what is done is let go, and what
is no message of ours never gets as far as kombu, which would end the process.

Registered under the names of the URL schemes, so that every connection of ours uses it. Knows no tasks and no settings.
"""

import logging
from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis

from workers.broker.admission import COMMANDS, Dropped, command_anew, doorbell_anew, other
from workers.contract import BadMessage, is_queue
from workers.errors import first_line

dropped = Dropped()
log = logging.getLogger(__name__)


class _FreeingQoS(kombu_redis.QoS):
    """Frees the place of a message that is done even if the broker could not be told so.

    kombu would count it as in hand for ever, and a node that may have one at a time would never take another. The
    broker hands it out again after a day, when its chunk is long over.
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
            dropped.one(self.unacked_key, BadMessage("no message"))
            self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]  # unknown to its types


class _Client(redis.Redis):
    """Replies to kombu with what may be let in, as if nothing had come where something else came."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        response = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not response:
            return response
        key, raw = response
        queue = key.decode(errors="replace").partition(kombu_redis.Channel.sep)[0]
        try:
            return key, doorbell_anew(queue, raw) if is_queue(queue) else other(raw)
        except BadMessage as why:
            dropped.one(queue, why)
            return None

    def pubsub(self, **options: Any) -> redis.client.PubSub:
        return _Subscription(self.connection_pool, **options)


class _Subscription(redis.client.PubSub):
    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        response = super().parse_response(block, timeout)  # type: ignore[no-untyped-call]
        if not isinstance(response, list) or response[0] not in (b"message", b"pmessage"):
            return response
        *where, raw = response
        exchange = where[-1].decode(errors="replace").partition(".")[2].partition("/")[0]  # "/0.celeryev/task.sent"
        try:
            return [*where, command_anew(exchange, raw) if exchange.endswith(COMMANDS) else other(raw)]
        except BadMessage as why:
            dropped.one(exchange, why)
            return [*where, b""]  # kombu passes over what is empty


class WritingChannel(kombu_redis.Channel):
    """A channel that is only opened on a server that takes writes.

    After a failover the server that was the primary comes back as a replica: it answers every ping and refuses all
    that we do. Of several servers in a URL kombu tries the next one only if this one cannot be connected to.
    """

    QoS = _FreeingQoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self._remove_strange(self.unacked_key.removesuffix("-unacked"))
            self.client.hdel(self.unacked_key, "")  # changes nothing, but is a write
        except redis.exceptions.ReadOnlyError as error:
            self.close()
            raise redis.ConnectionError("it is a replica, which takes no writes") from error

    def _remove_strange(self, queue: str) -> None:
        """Delete keys of ours that hold what Redis calls the wrong type: no node could work until somebody did."""
        named: Any = self  # of which its types know half
        kinds = {named.unacked_key: b"hash"}
        kinds |= dict.fromkeys((named.unacked_index_key, named.keyprefix_binding_deadlines), b"zset")
        kinds |= {named._q_for_pri(queue, priority): b"list" for priority in named.priority_steps}
        kinds |= {self.keyprefix_queue % exchange: b"set" for exchange in (queue, "celeryev", "celery.pidbox")}
        types = self.client.pipeline(transaction=False)
        for key in kinds:
            types.type(key)
        found = zip(kinds.items(), types.execute(), strict=True)
        if strange := [key for (key, kind), there in found if there not in (kind, b"none")]:
            dropped.one(queue, BadMessage(f"{len(strange)} keys of another type"))
            self.client.delete(*strange)

    def _get_client(self) -> type[redis.Redis]:
        return _Client


class SentinelChannel(WritingChannel, kombu_redis.SentinelChannel):
    """The same on the server that the sentinels call the primary."""


class Transport(kombu_redis.Transport):
    Channel = WritingChannel

    def _get_errors(self) -> Any:
        return _with_read_only(super()._get_errors())  # type: ignore[misc]  # unknown to its types


class SentinelTransport(kombu_redis.SentinelTransport):
    Channel = SentinelChannel

    def _get_errors(self) -> Any:
        return _with_read_only(super()._get_errors())  # type: ignore[misc]  # unknown to its types


def _with_read_only(errors: Any) -> Any:
    """A primary that became a replica while we were connected to it is lost like one that broke."""
    return errors._replace(connection_errors=(*errors.connection_errors, redis.exceptions.ReadOnlyError))


def register() -> None:
    """Let URLs of these schemes mean the transports of this module, in the whole process."""
    ours = {"redis": "Transport", "rediss": "Transport", "sentinel": "SentinelTransport"}
    TRANSPORT_ALIASES.update({scheme: f"{__name__}:{name}" for scheme, name in ours.items()})
