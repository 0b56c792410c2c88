"""The kinds of columns that the tables have, and JSON as they store it. Knows no table."""

import json
from json.encoder import encode_basestring as _quoted
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Text, TypeDecorator

# SQLite numbers rows by itself only in an INTEGER column.
Id = BigInteger().with_variant(Integer, "sqlite")
# No id is ever used twice: a late worker that still holds the id of a deleted row must not change a newer row. Without
# AUTOINCREMENT SQLite gives the id of a deleted row to the next one (https://sqlite.org/autoinc.html); PostgreSQL's
# sequences never go back.
IDS_ONCE = {"sqlite_autoincrement": True}
# Pixels. The limit refuses NaN and infinities too: PostgreSQL sorts NaN above all numbers, SQLite stores it as NULL.
LARGEST_COORDINATE = 1e9


def to_json(value: Any) -> str:
    """Write a value as JSON, always in the same spelling, so that equal values compare equal in SQL."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def cells_to_json(cells: dict[str, Any]) -> str:
    """Write a row's cells as `to_json` would, in less than half of the time: a source may have a million rows."""
    written = [
        f"{_quoted(name)}:{_quoted(cell) if type(cell) is str else to_json(cell)}" for name, cell in cells.items()
    ]
    return "{" + ",".join(written) + "}"


class JsonText(TypeDecorator[Any]):
    """JSON in a text column."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else to_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
