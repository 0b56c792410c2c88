"""How many parameters the statements of a test have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from db.session import Sessions

FEW = 40  # beside the values that are named: those of a row, a condition, a limit


@contextmanager
def most_parameters(sessions: Sessions) -> Iterator[list[Any]]:
    """[how many parameters the greatest statement had, its text]."""
    most: list[Any] = [0, ""]

    def look(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        sizes = [len(one) for one in parameters] if many else [len(parameters)]
        if max(sizes, default=0) > most[0]:
            most[:] = max(sizes), statement[:200]

    engine = sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", look)
    try:
        yield most
    finally:
        event.remove(engine, "before_cursor_execute", look)
