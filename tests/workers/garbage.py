"""What somebody who may write to the broker could put there in the place of a doorbell."""

import base64
import json
from typing import Any

from workers.broker.contract import TASK


def message(content: Any, **parts: Any) -> bytes:
    """As Celery would write it, but for some parts."""
    properties = {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}, "body_encoding": "base64"}
    whole = {
        "body": base64.b64encode(json.dumps(content).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": TASK, "id": "x"},
        "properties": properties,
    }
    return json.dumps(whole | parts).encode()


DOORBELL = {"v": 2, "db": "d", "run": 1, "chunk": 1, "ring": 1}
GARBAGE = {
    "no JSON": b"not json",
    "nothing": b"",
    "no UTF-8": b"\xff\x80",
    "a number": b"7",
    "a number of 5,000 digits": b"9" * 5000,
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep in few bytes": b"[" * 5_000 + b"]" * 5_000,
    "10 MB": b"x" * 10_000_000,
    "a value that kombu would make something of": b'{"__type__": "bytes", "__value__": 5}',
    "no base64": message([], body="?"),
    "no text for a body": message([], body=7),
    "no properties": message([], properties=7),
    "pickle": message([], **{"content-type": "application/x-python-serialize"}),
    "YAML": message([], **{"content-type": "application/x-yaml"}),
    "no arguments": message([]),
    "arguments of another form": message({"args": [DOORBELL]}),
    "another task": message([[DOORBELL], {}, {}], headers={"task": "celery.backend_cleanup", "id": "x"}),
    "no task": message([[DOORBELL], {}, {}], headers=[]),
    "no version": message([[{}], {}, {}]),
    "numbers of 70 bits": message([[DOORBELL | {"run": 2**70, "chunk": 2**70, "ring": -(2**70)}], {}, {}]),
}
