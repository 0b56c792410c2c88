"""What travels over the broker: the task's name, its queue and its message. Knows no Celery and no SQL."""

from dataclasses import dataclass
from typing import Any

TASK = "sam3.segment_chunk"
QUEUE = "sam3"
VERSION = 1


class BadMessage(ValueError):
    """A message that this version cannot read; acknowledged and dropped, since SQL still knows the work."""


@dataclass(frozen=True)
class Doorbell:
    """Says that a chunk may be claimed; everything about the work itself is in SQL."""

    run: int
    chunk: int
    ring: int

    def to_message(self) -> dict[str, int]:
        return {"v": VERSION, "run": self.run, "chunk": self.chunk, "ring": self.ring}

    @classmethod
    def from_message(cls, message: Any) -> "Doorbell":
        """Raise `BadMessage`, without the message's content, for anything but version 1 with whole numbers."""
        if not isinstance(message, dict) or message.get("v") != VERSION:
            raise BadMessage("not a version 1 message")
        run, chunk, ring = (message.get(key) for key in ("run", "chunk", "ring"))
        if not (type(run) is type(chunk) is type(ring) is int):
            raise BadMessage("run, chunk and ring must be whole numbers")
        return cls(run, chunk, ring)


def task_id(run_name: str, chunk_number: int, ring: int) -> str:
    """A readable Celery task id: `faces-00042.1`."""
    return f"{run_name}-{chunk_number:05d}.{ring}"
