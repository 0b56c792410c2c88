"""How PostgreSQL is opened, and which right a refusal asks for; knows no tables.

No setting and no statement of ours outlives its transaction, because between us and the server may stand a pooler that
gives each transaction another connection (PgBouncer with pool_mode=transaction).
"""

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext

from db.refusals import NO_RIGHT, READ_ONLY

POOLERS = ("transaction", "session", "none")
SECONDS = 60  # for a statement, and for standing still in a transaction


def open_engine(url: URL, connections: int, lock_seconds: int) -> Engine:
    """An engine that holds at most `connections`; its errors say in their `detail` which right is missing.

    Raises `ValueError` for an unknown ?pooler=, `ModuleNotFoundError` where the driver is not installed.
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
        connect_args={
            "connect_timeout": 5,
            "application_name": "sam3-queue",
            "keepalives_idle": 30,
            "tcp_user_timeout": 30_000,
            "client_encoding": "utf8",  # a server whose databases are SQL_ASCII would give text as bytes
        },
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
    def advise(context: ExceptionContext) -> None:
        advice = _missing_right(context.original_exception, url.username)
        if advice is not None and context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.add_detail(advice)

    return engine


def _is_pooled(connection: Any) -> bool:
    """Whether somebody else than the server's own process answers: poolers make up the number of that process.

    Statements that are prepared on one connection of the server would be looked for on another.
    """
    told = connection.info.backend_pid
    real = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    connection.rollback()
    return bool(told != real)


def _missing_right(error: BaseException, user: str | None) -> str | None:
    """For a refused permission or a read-only server: what to do about it, in a few words. None for other errors."""
    code = getattr(error, "sqlstate", None)
    if code == READ_ONLY:
        return "this server only reads, as a standby does: name the primary, or add ?target_session_attrs=read-write"
    if code != NO_RIGHT:
        return None
    said, role = str(error).lower(), f'"{user}"' if user else "this role"
    if "schema" in said:
        return f"as its owner: GRANT CREATE, USAGE ON SCHEMA public TO {role}"
    if "sequence" in said:
        return f"as its owner: GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}"
    return f"as its owner: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
