"""The message on the broker: small, versioned, and never repeated in an error."""

import json
from typing import Any

import pytest

from workers.broker.contract import BadMessage, Doorbell, task_id

DOORBELL = Doorbell(database="d0", run=3, chunk=42, ring=1)


def test_a_doorbell_survives_the_broker() -> None:
    sent = json.dumps(DOORBELL.to_message())
    assert Doorbell.from_message(json.loads(sent)) == DOORBELL


def test_the_message_holds_numbers_and_a_random_name_so_that_it_can_leak_nothing() -> None:
    assert DOORBELL.to_message() == {"v": 2, "db": "d0", "run": 3, "chunk": 42, "ring": 1}


def test_a_field_that_a_later_version_adds_is_ignored() -> None:
    assert Doorbell.from_message(DOORBELL.to_message() | {"hint": "gpu"}) == DOORBELL


@pytest.mark.parametrize(
    "message",
    [
        None,
        "canary",
        ["canary"],
        {},
        {"v": 99, "run": 3, "chunk": 42, "ring": 1, "why": "canary"},
        {"v": 1, "run": 3, "chunk": 42, "ring": 1},
        {"v": 2, "run": 3, "chunk": 42, "ring": 1},
        {"v": 2, "db": ["canary"], "run": 3, "chunk": 42, "ring": 1},
        {"v": 2, "db": "d0", "run": 3, "chunk": 42},
        {"v": 2, "db": "d0", "run": 3, "chunk": "canary", "ring": 1},
        {"v": 2, "db": "d0", "run": 3, "chunk": 42.0, "ring": 1},
        {"v": 2, "db": "d0", "run": True, "chunk": 42, "ring": 1},
        {"v": 2, "db": "d0", "run": {"canary": 1}, "chunk": 42, "ring": 1},
    ],
)
def test_a_bad_message_is_refused_without_showing_what_it_holds(message: Any) -> None:
    with pytest.raises(BadMessage) as refused:
        Doorbell.from_message(message)
    assert "canary" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_task_id_reads_as_run_chunk_and_ring() -> None:
    assert task_id("faces", 42, 1) == "faces-00042.1"
    assert task_id("faces", 1_234_567, 2) == "faces-1234567.2"
