"""Inserts very many rows at once, each database's fastest plain way. Knows no table's meaning, and never commits."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session


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
