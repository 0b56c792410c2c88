"""Statements that SQLAlchemy has compiled, kept for all engines of a test process instead of for each alone.

Each test has an engine of its own, and compiling its statements anew takes a third of the time of a database test.
Knows no tests and no tables.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.util import LRUCache

MOST = 2000  # statements


class Compiled(LRUCache[Any, Any]):
    """What `Engine` keeps compiled statements in, by the kind of database in place of the engine's own dialect."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_of_kind(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_of_kind(key), value)


def _of_kind(key: Any) -> Any:
    dialect: Dialect = key[0]
    return (type(dialect), dialect.server_version_info, *key[1:])


def share() -> None:
    """From now on all engines of this process find what one of them has compiled."""
    compiled = Compiled(MOST)

    def use(connection: Connection) -> None:
        connection.engine._compiled_cache = compiled

    event.listen(Engine, "engine_connect", use)
