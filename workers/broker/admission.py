"""What a process takes from the broker, to which anybody may write who can reach it: doorbells and remote commands.

Each is read, judged, and made anew of the few fields that count, before Celery sees it: a time limit, a callback or a
clock that a stranger wrote is gone then. Everything else is dropped, and told once a minute. Knows the form of
Celery's messages (protocol 2) and the contract's; asks no SQL, so a doorbell that is let in may still be a wrong one.
"""

import base64
import json
import logging
import time
import uuid
from typing import Any

from kombu.utils.json import loads

from workers.contract import TASK, BadMessage, Doorbell

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024  # of one message: ours have less than 2 kB, and up to 30 kB if their first path is very long
MOST_BYTES_OF_OTHERS = 16 * 1024**2  # many events come as one message
MOST_SHOWN = 32 * 1024  # characters of a task's arguments, as Flower shows them
TOLD_SECONDS = 60.0
COMMANDS = ".pidbox"  # ends the name of the exchange of remote commands
# What JSON of any other form than the expected one raises when it is looked into.
_OTHERWISE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def doorbell_in(message: Any) -> Doorbell:
    """The doorbell in a queued Celery message. Raises `BadMessage`."""
    try:
        doorbell = _content(message)[0][0]
    except _OTHERWISE:
        raise BadMessage("no task") from None
    return Doorbell.from_message(doorbell)


def doorbell_anew(queue: str, raw: bytes) -> bytes:
    """The same doorbell in a message of our own making, with the name under which Flower shows it.

    Raises `BadMessage` if `raw`, from `queue`, is anything else than one.
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


def command_anew(exchange: str, raw: bytes) -> bytes:
    """The same remote command in a message of our own making. Whether a node obeys it is decided there.

    Raises `BadMessage` if `raw` is anything else than one.
    """
    try:
        order = _content(_read(raw))
        method, arguments, reply_to = order["method"], order.get("arguments") or {}, order.get("reply_to")
        known = isinstance(method, str) and isinstance(arguments, dict)
        # Nodes can also be named by a regular expression, which may take for ever.
        if not known or order.get("pattern") or order.get("matcher"):
            raise BadMessage("no remote command")
        own = {
            "method": method,
            "arguments": arguments,
            "destination": [str(one) for one in order.get("destination") or ()] or None,
            "ticket": _text(order.get("ticket")) or None,
            "reply_to": reply_to and {key: str(reply_to[key]) for key in ("exchange", "routing_key")},
        }
    except _OTHERWISE:
        raise BadMessage("no remote command") from None
    return _message(own, {}, (exchange, ""))


def other(raw: bytes) -> bytes:
    """A message of any other kind (an event, an answer) as it is. Raises `BadMessage` if it cannot be one."""
    try:
        message = _read(raw, MOST_BYTES_OF_OTHERS)
        loads(raw)  # as kombu does, which makes dates and the like of some values
        _content(message)
        if not isinstance(message["properties"]["delivery_tag"], str):
            raise BadMessage("no message")
    except _OTHERWISE:
        raise BadMessage("no message") from None
    return raw


def _read(raw: bytes, most: int = MOST_BYTES) -> dict[str, Any]:
    if len(raw) > most:
        raise BadMessage(f"{len(raw):,} bytes")
    try:
        message = json.loads(raw)
    except _OTHERWISE:
        raise BadMessage("no JSON") from None
    if not isinstance(message, dict):
        raise BadMessage("no message")
    return message


def _content(message: Any) -> Any:
    """What the message's body holds, never unpickled. Raises one of `_OTHERWISE`."""
    if message.get("content-type") != "application/json":
        raise BadMessage("no JSON inside")
    encoded = message["properties"].get("body_encoding") == "base64"
    return json.loads(base64.b64decode(message["body"], validate=True) if encoded else message["body"])


def _message(
    content: Any, headers: dict[str, Any], way: tuple[str, str], properties: dict[str, str] | None = None
) -> bytes:
    """`way`: exchange and routing key, by which a message that was taken and not answered goes back."""
    exchange, routing_key = way
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
            "delivery_tag": str(uuid.uuid4()),  # two with the same tag would be acknowledged together
        },
    }
    return json.dumps(message).encode()


def _text(value: Any) -> str:
    return value[:MOST_SHOWN] if isinstance(value, str) else ""


class Dropped:
    """Counts what was not let in, and tells of it at once and then at most once a minute."""

    def __init__(self, seconds: float = TOLD_SECONDS) -> None:
        self._seconds = seconds
        self._count = 0
        self._next = 0.0

    def one(self, where: str, why: BadMessage) -> None:
        self._count += 1
        if time.monotonic() < self._next:
            return
        log.warning(
            "dropped %d of what came by the broker, from %s: %s; somebody else writes to it, or another release",
            self._count,
            where,
            why,
        )
        self._count, self._next = 0, time.monotonic() + self._seconds
