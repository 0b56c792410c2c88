"""The database's clock, and how times are compared with it, as it may be set back or forward. Knows no tables.

SQLite uses the clock of the machine. After that clock was set back, the lease of a dead process may end hours ahead. So
a lease or rest that ends further ahead than any is ever given counts as over. A live process loses little: it renews
its times every few seconds.
"""

from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Float

LONGEST_SECONDS = 3600.0  # of any lease or rest; `workers.settings` refuses longer ones


class now(FunctionElement[float]):
    """The database's clock in seconds since 1970; moves on inside a transaction, unlike SQL's CURRENT_TIMESTAMP."""

    type = Float(53)
    inherit_cache = True
    name = "now"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::float8"


def is_over(until: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Whether a lease or a rest that ends at `until` has ended."""
    return (until < now()) | (until > now() + LONGEST_SECONDS)


def is_recent(at: SQLColumnExpression[Any], seconds: float) -> ColumnElement[bool]:
    """Whether `at` is at most `seconds` ago or ahead; a time ahead was written before the clock was set back."""
    return at.between(now() - seconds, now() + seconds)
