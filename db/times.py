"""Compares times in the database with the database's clock, which may be set back or forward. Knows no tables.

SQLite uses the clock of the machine. After that clock was set back, the lease of a dead process may end hours ahead. So
a lease or rest that ends further ahead than any is ever given counts as over. A live process loses little: it renews
its times every few seconds.
"""

from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression

from db.session import now

LONGEST_SECONDS = 3600.0  # of any lease or rest; `workers.settings` refuses longer ones


def is_over(until: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Whether a lease or a rest that ends at `until` has ended."""
    return (until < now()) | (until > now() + LONGEST_SECONDS)


def is_recent(at: SQLColumnExpression[Any], seconds: float) -> ColumnElement[bool]:
    """Whether `at` is at most `seconds` ago or ahead; a time ahead was written before the clock was set back."""
    return at.between(now() - seconds, now() + seconds)
