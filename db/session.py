"""Opens a database by its URL, and runs transactions in it. Knows no tables and no environment."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from db import postgresql, sqlite
from db.patience import Patience
from db.refusals import DatabaseUnusable, NoDatabase, is_busy, refusal
from db.sqlite import file_system

Sessions = sessionmaker[Session]
Value = TypeVar("Value")
Args = ParamSpec("Args")

# Secrets that libpq takes from a URL's query (https://www.postgresql.org/docs/current/libpq-connect.html). They are
# never shown.
SECRETS_IN_QUERY = ("password", "sslpassword", "oauth_client_secret")
NO_TIME_LIMITS = select(
    func.set_config("statement_timeout", "0", True), func.set_config("idle_in_transaction_session_timeout", "0", True)
)
PATIENCE = "patience"  # the key of the `Patience` in `Session.info`
# To wait for a lock that another process holds; then the transaction is begun again. Less than
# `db.patience.RETRY_SECONDS`, so that there is more than one try.
LOCK_SECONDS = 10


class OutcomeUnknown(Exception):
    """The connection broke during a commit: the transaction may be in the database or not."""


def connect(url: str, *, connections: int = 2, create: bool = True, patience: Patience | None = None) -> Sessions:
    """Return a session factory for `url`. Nothing is opened before the first session begins.

    `connections` is the most that this process holds open on PostgreSQL. Without `create` an SQLite file and its
    folder are never made: raises `NoDatabase` where there is no file. `patience` is how `read`, `write` and
    `write_once` wait for a database that is away: for half a minute if nothing is given.
    Raises `DatabaseUnusable` for a malformed URL, another kind of database, or SQLite on a network file system.
    """
    parsed = parse_url(url)
    is_file = parsed.get_backend_name() == "sqlite"
    engine = sqlite.open_engine(parsed, LOCK_SECONDS, create) if is_file else _postgresql_engine(parsed, connections)
    return sessionmaker(engine, expire_on_commit=False, info={PATIENCE: patience or Patience()})


def patience_of(sessions: Sessions) -> Patience:
    """The `Patience` that these sessions were made with, or the default one."""
    found = sessions.kw.get("info", {}).get(PATIENCE)
    return found if isinstance(found, Patience) else Patience()


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file. Special characters in its name are escaped."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def parse_url(url: str) -> URL:
    """Parse a database URL; for PostgreSQL choose the driver psycopg. Raises `DatabaseUnusable`."""
    try:
        parsed = make_url(re.sub("^postgres://", "postgresql://", url))  # libpq takes the short name as well
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        raise DatabaseUnusable(
            "SAM3_DATABASE_URL is not a database URL; use sqlite:////path/to/file.db or postgresql://user@host/name"
        ) from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise DatabaseUnusable(
            f"SAM3_DATABASE_URL names {parsed.get_backend_name()}; only sqlite and postgresql are supported"
        )
    if parsed.get_backend_name() == "sqlite":
        return parsed
    # The rest of a password with a bare @ looks like a host, and would be shown as one.
    if parsed.password is not None and "@" in f"{parsed.host}{parsed.database}{url.partition('?')[2]}":
        raise DatabaseUnusable(
            "SAM3_DATABASE_URL: write postgresql://user:password@host/name; "
            "a password spells / # ? @ as %2F %23 %3F %40"
        )
    return parsed.set(drivername="postgresql+psycopg")


def _postgresql_engine(url: URL, connections: int) -> Engine:
    try:
        return postgresql.open_engine(url, connections, LOCK_SECONDS)
    except ModuleNotFoundError:
        raise DatabaseUnusable("PostgreSQL needs its driver: pip install 'sam3-queue[postgres]'") from None
    except ValueError as error:
        raise DatabaseUnusable(f"SAM3_DATABASE_URL: {error}") from None


@contextmanager
def reading(sessions: Sessions) -> Iterator[Session]:
    """A session that only reads: on SQLite it takes no write lock and sees one consistent state."""
    with sessions() as session:
        connection = session.connection(execution_options={"read_only": True})
        if connection.dialect.name == "postgresql":
            # A reader blocks nobody, and an export writes files between two queries: so no time limit applies.
            connection.execute(NO_TIME_LIMITS)
        yield session


def write(
    sessions: Sessions, work: Callable[Concatenate[Session, Args], Value], *args: Args.args, **kwargs: Args.kwargs
) -> Value:
    """Return `work(session, ...)`, run in one transaction that is repeated while the database is away or busy.

    `work` must be repeatable even after its commit: if the connection breaks during the commit, nobody knows whether
    the transaction is in the database. A compare-and-set is repeatable: the second time it finds nothing to change.
    Raises `DBAPIError` for errors that do not pass, and when the sessions' `Patience` is over.
    """

    def once() -> Value:
        with sessions.begin() as session:
            return work(session, *args, **kwargs)

    return patience_of(sessions).repeat(once, writes=True)


def write_once(
    sessions: Sessions, work: Callable[Concatenate[Session, Args], Value], *args: Args.args, **kwargs: Args.kwargs
) -> Value:
    """`write` for work that must not be repeated: raises `OutcomeUnknown` if the connection breaks in the commit."""

    def once() -> Value:
        with sessions() as session:
            value = work(session, *args, **kwargs)
            session.flush()
            try:
                session.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise OutcomeUnknown("the connection to the database broke in the middle of a commit") from error
                raise
            return value

    return patience_of(sessions).repeat(once, writes=True)


def read(
    sessions: Sessions, work: Callable[Concatenate[Session, Args], Value], *args: Args.args, **kwargs: Args.kwargs
) -> Value:
    """Return `work(session, ...)`, which only reads; it is repeated while the database is away or busy."""

    def once() -> Value:
        with reading(sessions) as session:
            return work(session, *args, **kwargs)

    return patience_of(sessions).repeat(once, writes=False)


@contextmanager
def without_foreign_keys(sessions: Sessions) -> Iterator[Sessions]:
    """Yield a session factory without SQLite's check of foreign keys, so that a table can be replaced by a new copy.

    The check can be switched off only outside of a transaction. PostgreSQL changes tables in place: its sessions are
    yielded as they are. Source: https://sqlite.org/lang_altertable.html#otheralter.
    """
    engine: Engine = sessions.kw["bind"]
    if engine.dialect.name != "sqlite":
        yield sessions
        return
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            yield sessionmaker(connection, expire_on_commit=False)
        finally:
            if not connection.invalidated:  # Ctrl-C in the middle of a statement closes the connection
                driver.execute("PRAGMA foreign_keys=ON")


def compact(sessions: Sessions) -> None:
    """Return the space of deleted rows to the disk. PostgreSQL needs no such call: it has autovacuum."""
    with sessions.kw["bind"].connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.connection.driver_connection.execute("VACUUM")


def shown(url: str) -> str:
    """A database in messages: the file of SQLite, else the URL without its password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return str(Path(parsed.database).absolute())
    return parsed.difference_update_query(SECRETS_IN_QUERY).render_as_string(hide_password=True)


def describe_failure(error: DBAPIError | NoDatabase, url: str) -> str:
    """Say in half a line which database cannot be used and why, without its password."""
    where = shown(url)
    kind = file_system(Path(where)) if Path(where).is_absolute() else ""  # that of SQLite's file
    if isinstance(error, NoDatabase):
        return f"cannot use the database {where}: {error}"
    if is_busy(error):
        return f"the database {where} is held by another process for too long; end that one or try again later"
    return f"cannot use the database {where}: {refusal(error, kind)}"
