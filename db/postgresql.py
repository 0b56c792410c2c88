"""Opens PostgreSQL; knows no tables.

No setting and no prepared statement of ours may outlive its transaction, because a pooler may give each transaction
another connection of the server (PgBouncer with pool_mode=transaction, https://www.pgbouncer.org/features.html).
"""

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext

from db.refusals import advise

POOLERS = ("transaction", "session", "none")
SECONDS = 60  # most of a statement, and most of being idle in a transaction

CONNECTION: dict[str, Any] = {  # parameters of libpq: https://www.postgresql.org/docs/current/libpq-connect.html
    "connect_timeout": 5,  # seconds
    "application_name": "sam3-queue",
    "keepalives_idle": 30,  # seconds
    "tcp_user_timeout": 30_000,  # milliseconds
    "client_encoding": "utf8",  # else psycopg returns bytes for text of an SQL_ASCII database
}


def open_engine(url: URL, connections: int, lock_seconds: int) -> Engine:
    """Make an engine with at most `connections` connections, whose errors have notes on what to do about them.

    A statement waits for a lock for `lock_seconds`. Raises `ValueError` for an unknown ?pooler=, and
    `ModuleNotFoundError` where the driver is not installed.
    """
    pooler = url.query.get("pooler")
    if pooler is not None and pooler not in POOLERS:
        raise ValueError(f"?pooler={pooler}: use one of {', '.join(POOLERS)}, or leave it out")
    engine = create_engine(
        url.difference_update_query(["pooler"]),
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,  # a connection that died while idle is replaced, not reported
        pool_recycle=1800,
        connect_args=CONNECTION,
    )

    @event.listens_for(engine, "connect")
    def prepare_nothing_behind_a_pooler(connection: Any, record: object) -> None:
        if pooler == "transaction" or (pooler is None and _is_pooled(connection)):
            connection.prepare_threshold = None

    @event.listens_for(engine, "begin")
    def limit_times(connection: Connection) -> None:
        connection.exec_driver_sql(
            f"SET LOCAL statement_timeout = '{SECONDS}s'; SET LOCAL lock_timeout = '{lock_seconds}s'; "
            f"SET LOCAL idle_in_transaction_session_timeout = '{SECONDS}s'"
        )

    @event.listens_for(engine, "handle_error")
    def say_what_to_do(context: ExceptionContext) -> None:
        if context.sqlalchemy_exception is not None:
            advise(context.sqlalchemy_exception, context.original_exception, engine)

    return engine


def _is_pooled(connection: Any) -> bool:
    """Whether a pooler answers and not the server itself: a pooler reports a pid that is not that of the server.

    Behind a pooler no statement may be prepared, since the next transaction may have another connection of the server.
    """
    reported = connection.info.backend_pid
    real = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    connection.rollback()
    return bool(reported != real)
