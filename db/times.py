"""Judges the times in the database by its clock, which may have been set back or forward. Knows no tables.

The clock of SQLite is that of the machine. After it was set back, what a dead process left behind may seem to hold for
hours. So nothing is believed that could never have been given: whoever lives writes its times anew in seconds.
"""

from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression

from db.session import now

LONGEST_SECONDS = 3600.0  # no lease and no rest is given for longer; the settings see to it


def is_over(until: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Whether a lease or a rest that ends at `until` has ended."""
    return (until < now()) | (until > now() + LONGEST_SECONDS)


def is_recent(at: SQLColumnExpression[Any], seconds: float) -> ColumnElement[bool]:
    """Whether it was so at most `seconds` ago; what lies as far ahead was written before the clock was set back."""
    return at.between(now() - seconds, now() + seconds)
