"""What travels over the broker: the task's name, its queue and its message. Knows no Celery and no SQL.

Each database has its own queue, so that several databases can share one broker. A message names its database as well,
because anybody who reaches the broker may write to any queue.
"""

from dataclasses import dataclass
from typing import Any

TASK = "sam3.segment_chunk"
QUEUE = "sam3"
VERSION = 2  # version 1 did not name the database
LARGEST = 2**63 - 1  # largest whole number that SQL takes


def queue_name(identity: str) -> str:
    """The queue of the database with this identity."""
    return f"{QUEUE}-{identity}" if identity else QUEUE


def is_queue(name: str) -> bool:
    """Whether a queue of this name holds the doorbells of some database."""
    return name == QUEUE or name.startswith(f"{QUEUE}-")


class BadMessage(ValueError):
    """A message that this version cannot read. It is acknowledged and dropped, since SQL still has the work."""


@dataclass(frozen=True)
class Doorbell:
    """Says that a chunk may be claimed; all that is needed for the work is in SQL."""

    database: str  # identity of the chunk's database
    run: int  # id
    chunk: int  # id
    ring: int  # number of this doorbell among those of the chunk, from 1

    def to_message(self) -> dict[str, int | str]:
        return {"v": VERSION, "db": self.database, "run": self.run, "chunk": self.chunk, "ring": self.ring}

    @classmethod
    def from_message(cls, message: Any) -> "Doorbell":
        """Read a message. Raises `BadMessage`, which never quotes the message, if it is no doorbell of this version."""
        if not isinstance(message, dict) or message.get("v") != VERSION:
            raise BadMessage(f"not a version {VERSION} message")
        run, chunk, ring = (message.get(key) for key in ("run", "chunk", "ring"))
        if not (type(run) is type(chunk) is type(ring) is int):
            raise BadMessage("run, chunk and ring must be whole numbers")
        if not all(-LARGEST <= number <= LARGEST for number in (run, chunk, ring)):
            raise BadMessage("run, chunk and ring must be numbers of 64 bits")
        if not isinstance(database := message.get("db"), str):
            raise BadMessage("it names no database")
        return cls(database, run, chunk, ring)


def task_id(run_name: str, chunk_number: int, ring: int) -> str:
    """A Celery task id that people can read: `faces-00042.1` is the first doorbell of chunk 42 of the run faces."""
    return f"{run_name}-{chunk_number:05d}.{ring}"
