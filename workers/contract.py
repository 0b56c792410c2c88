"""What travels over the broker: the task's name, its queue and its message. Knows no Celery and no SQL.

Every database has its own queue, so that several can share one broker; messages name their database as well, because
anybody may write to a queue.
"""

from dataclasses import dataclass
from typing import Any

TASK = "sam3.segment_chunk"
QUEUE = "sam3"
VERSION = 2  # 1 did not name its database
LARGEST = 2**63 - 1  # of a number that SQL can compare


def queue_name(identity: str) -> str:
    """The queue of the database with this identity."""
    return f"{QUEUE}-{identity}" if identity else QUEUE


def is_queue(name: str) -> bool:
    """Whether a queue of this name holds the doorbells of some database."""
    return name == QUEUE or name.startswith(f"{QUEUE}-")


class BadMessage(ValueError):
    """A message that this version cannot read; acknowledged and dropped, since SQL still knows the work."""


@dataclass(frozen=True)
class Doorbell:
    """Says that a chunk may be claimed; everything about the work itself is in SQL."""

    database: str  # the identity of the one that knows the chunk
    run: int
    chunk: int
    ring: int

    def to_message(self) -> dict[str, int | str]:
        return {"v": VERSION, "db": self.database, "run": self.run, "chunk": self.chunk, "ring": self.ring}

    @classmethod
    def from_message(cls, message: Any) -> "Doorbell":
        """Raise `BadMessage`, without the message's content, unless it is of this version and names its chunk."""
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
    """A readable Celery task id: `faces-00042.1`."""
    return f"{run_name}-{chunk_number:05d}.{ring}"
