"""Removes what an earlier time found in images that are computed again. Knows no states, never commits."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete
from sqlalchemy.orm import Session

from db.chunks import rowcount
from db.models import Instance, Result

# What an image that failed without being read says of its file and its picture: nothing, also where it once was read.
NOT_READ: dict[str, Any] = dict.fromkeys(("width", "height", "file_size", "file_mtime_ns", "warning"))


def drop_results(session: Session, image_ids: Sequence[int] | Select[int]) -> None:
    """Delete the results and instances of these images: the new outcome is written in the same transaction."""
    for table in (Instance, Result):
        rowcount(session, delete(table).where(table.image_id.in_(image_ids)))
