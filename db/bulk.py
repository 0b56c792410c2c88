"""Statements about very many rows: inserts, each database's fastest plain way, and values named in parts.

Knows no table's meaning, and never commits.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

NAMED_AT_ONCE = 1000  # values; SQLite takes 32,766 parameters a statement, PostgreSQL's protocol 65,535

Value = TypeVar("Value")


def named_at_once(values: Sequence[Value], most: int = NAMED_AT_ONCE) -> Iterator[Sequence[Value]]:
    """Parts of `values` whose members one statement can name, however many there are: `column.in_(part)`."""
    return (values[first : first + most] for first in range(0, len(values), most))


def insert_rows(session: Session, table: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert `rows`, each with one value for each of `columns`, as the driver takes them.

    No default and no type of the table's is applied in Python. Errors are SQLAlchemy's, as those of other statements.
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
    # SQLAlchemy has no COPY, so what it does about a driver's errors is done here.
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
        raise DBAPIError.instance(
            statement, None, error, driver_error, connection_invalidated=lost, dialect=connection.dialect
        ) from error
