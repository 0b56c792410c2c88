"""Checks all messages from the broker before Celery sees them, because anybody who reaches the broker may write to it.

Doorbells and remote commands are read, checked, and written again with the few fields that we use, so that no time
limit, callback or clock of a stranger reaches Celery. All other tasks and commands are dropped, with one log line a
minute. Knows the form of Celery's messages (protocol 2, https://docs.celeryq.dev/en/stable/internals/protocol.html)
and that of `workers.broker.contract`. Asks no SQL, so a doorbell that passes may name a chunk that does not exist.
"""

import base64
import json
import logging
import time
import uuid
from typing import Any

from kombu.utils.json import loads

from workers.broker.contract import TASK, BadMessage, Doorbell

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024  # of one message: ours have less than 2 kB, or up to 30 kB if their first path is very long
MOST_BYTES_OF_OTHERS = 16 * 1024**2  # one message may hold many events
MOST_SHOWN = 32 * 1024  # characters of a task's arguments that Flower shows
TOLD_SECONDS = 60.0  # between two log lines about dropped messages
COMMANDS = ".pidbox"  # end of the name of the exchange for remote commands
# Errors of reading JSON that does not have the expected form.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def doorbell_in(message: Any) -> Doorbell:
    """The doorbell in a queued Celery message. Raises `BadMessage`."""
    try:
        doorbell = _content(message)[0][0]
    except _MALFORMED:
        raise BadMessage("no task") from None
    return Doorbell.from_message(doorbell)


def rewritten_doorbell(queue: str, raw: bytes) -> bytes:
    """Write the doorbell in the message `raw` from `queue` as a new message; Flower shows it under the same name.

    Raises `BadMessage` if `raw` is no doorbell.
    """
    message = _read(raw)
    doorbell, headers = doorbell_in(message), message.get("headers")
    if not isinstance(headers, dict) or headers.get("task") != TASK:
        raise BadMessage("another task")
    name, shown = (_text(headers.get(key)) for key in ("id", "argsrepr"))
    task_id = name or str(uuid.uuid4())
    callbacks = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    own = {
        "lang": "py",
        "task": TASK,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": shown,
        "kwargsrepr": "{}",
        "origin": _text(headers.get("origin")),
    }
    return _message([[doorbell.to_message()], {}, callbacks], own, ("", queue), {"correlation_id": task_id})


def rewritten_command(exchange: str, raw: bytes) -> bytes:
    """Write the remote command in the message `raw` as a new message. The node decides whether it obeys the command.

    Raises `BadMessage` if `raw` is no remote command.
    """
    try:
        order = _content(_read(raw))
        method, arguments, reply_to = order["method"], order.get("arguments") or {}, order.get("reply_to")
        known = isinstance(method, str) and isinstance(arguments, dict)
        # A command may name nodes by a regular expression, which could take for ever: such commands are refused.
        if not known or order.get("pattern") or order.get("matcher"):
            raise BadMessage("no remote command")
        own = {
            "method": method,
            "arguments": arguments,
            "destination": [str(node) for node in order.get("destination") or ()] or None,
            "ticket": _text(order.get("ticket")) or None,
            "reply_to": reply_to and {key: str(reply_to[key]) for key in ("exchange", "routing_key")},
        }
    except _MALFORMED:
        raise BadMessage("no remote command") from None
    return _message(own, {}, (exchange, ""))


def checked_other(raw: bytes) -> bytes:
    """Return a message of any other kind (an event, an answer) unchanged. Raises `BadMessage` if it is malformed."""
    try:
        message = _read(raw, MOST_BYTES_OF_OTHERS)
        loads(raw)  # kombu does the same, and some values may fail to become dates
        _content(message)
        if not isinstance(message["properties"]["delivery_tag"], str):
            raise BadMessage("no message")
    except _MALFORMED:
        raise BadMessage("no message") from None
    return raw


def _read(raw: bytes, most: int = MOST_BYTES) -> dict[str, Any]:
    if len(raw) > most:
        raise BadMessage(f"{len(raw):,} bytes")
    try:
        message = json.loads(raw)
    except _MALFORMED:
        raise BadMessage("no JSON") from None
    if not isinstance(message, dict):
        raise BadMessage("no message")
    return message


def _content(message: Any) -> Any:
    """The content of the message's body, which must be JSON and is never unpickled. Raises one of `_MALFORMED`."""
    if message.get("content-type") != "application/json":
        raise BadMessage("no JSON inside")
    encoded = message["properties"].get("body_encoding") == "base64"
    return json.loads(base64.b64decode(message["body"], validate=True) if encoded else message["body"])


def _message(
    content: Any, headers: dict[str, Any], route: tuple[str, str], properties: dict[str, str] | None = None
) -> bytes:
    """Write a message. `route`: exchange and routing key, to which kombu returns a message that nobody answers."""
    exchange, routing_key = route
    message = {
        "body": base64.b64encode(json.dumps(content).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            **(properties or {}),
            "delivery_mode": 2,
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),  # two messages with the same tag would be acknowledged together
        },
    }
    return json.dumps(message).encode()


def _text(value: Any) -> str:
    return value[:MOST_SHOWN] if isinstance(value, str) else ""


class Dropped:
    """Counts dropped messages, and logs a line at once and then at most one every `seconds`."""

    def __init__(self, seconds: float = TOLD_SECONDS) -> None:
        self._seconds = seconds
        self._count = 0
        self._next = 0.0

    def add(self, where: str, why: BadMessage) -> None:
        """Count one message from the queue, exchange or key `where`."""
        self._count += 1
        if time.monotonic() < self._next:
            return
        log.warning(
            "dropped %d messages from the broker, the last from %s: %s; does another program or release write to it?",
            self._count,
            where,
            why,
        )
        self._count, self._next = 0, time.monotonic() + self._seconds
