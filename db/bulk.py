"""Statements about very many rows: fast inserts, and long lists of values in parts. Knows no table, never commits."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, SQLColumnExpression, Table, and_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db.refusals import advise

# Values in one statement. SQLite takes up to 32,766 parameters a statement, PostgreSQL's protocol up to 65,535.
NAMED_AT_ONCE = 1000

Value = TypeVar("Value")


def named_at_once(values: Sequence[Value], most: int = NAMED_AT_ONCE) -> Iterator[Sequence[Value]]:
    """Parts of `values`, each short enough for one statement: `column.in_(part)`."""
    return (values[first : first + most] for first in range(0, len(values), most))


def among(session: Session, column: SQLColumnExpression[Any], ids: Sequence[int]) -> ColumnElement[bool]:
    """The condition that `column` is one of `ids`, which are few enough for one statement. It always uses an index.

    Without statistics of a table PostgreSQL assumes that a thousand values match all its rows, and reads the whole
    table for each statement. Of a range it assumes a small part
    (https://www.postgresql.org/docs/current/row-estimation-examples.html). SQLite would prefer the range to the ids,
    though it may be much larger.
    """
    named = column.in_(ids)
    if not ids or session.get_bind().dialect.name != "postgresql":
        return named
    return and_(column.between(min(ids), max(ids)), named)


def insert_rows(session: Session, table: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert `rows`, each with one value for each of `columns`, in the database's fastest way.

    Values go to the driver as they are: neither the defaults nor the types of the table are applied in Python. Raises
    SQLAlchemy's errors, as other statements do. PostgreSQL's COPY is psycopg's:
    https://www.psycopg.org/psycopg3/docs/basic/copy.html.
    """
    connection = session.connection()
    prepare = connection.dialect.identifier_preparer
    target = f"{prepare.format_table(table)} ({', '.join(prepare.quote(column) for column in columns)})"
    if connection.dialect.name == "postgresql":
        _copy(connection, f"COPY {target} FROM STDIN", rows)
    elif values := list(rows):
        marks = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {target} VALUES ({marks})", values)


def _copy(connection: Connection, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    # SQLAlchemy has no COPY, so this function turns the driver's errors into SQLAlchemy's as SQLAlchemy would.
    driver: Any = connection.connection.driver_connection
    driver_error = connection.dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except driver_error as error:
        lost = driver.closed
        if lost:
            connection.invalidate(error)
        ours = DBAPIError.instance(
            statement, None, error, driver_error, connection_invalidated=lost, dialect=connection.dialect
        )
        advise(ours, error, connection.engine)
        raise ours from error
