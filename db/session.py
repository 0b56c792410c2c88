"""Opens the database: engines, pragmas and the database's clock; knows URLs but no tables and no environment."""

import itertools
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Float

from db import postgresql, private
from db.patience import Patience
from db.read_only import is_mounted_read_only, open_read_only
from db.refusals import is_busy, refusal

Sessions = sessionmaker[Session]
Value = TypeVar("Value")
Args = ParamSpec("Args")

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "beegfs",
    "gpfs",
    "glusterfs",
    "ceph",
    "afs",
    "9p",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.juicefs",
    "fuse.s3fs",
    "fuse.gcsfuse",
    "fuse.rclone",
)
# Secrets that libpq takes from a URL's query (https://www.postgresql.org/docs/current/libpq-connect.html). They are
# never shown.
SECRETS_IN_QUERY = ("password", "sslpassword", "oauth_client_secret")
NO_TIME_LIMITS = select(
    func.set_config("statement_timeout", "0", True), func.set_config("idle_in_transaction_session_timeout", "0", True)
)
OUR_TABLES = {"run", "chunk", "image"}  # tables that every release has
PATIENCE = "patience"  # the key of the `Patience` in `Session.info`
WAL_TRIES = 100  # 0.1 s apart
# To wait for a lock that another process holds; then the transaction is begun again. Less than
# `db.patience.RETRY_SECONDS`, so that there is more than one try.
LOCK_SECONDS = 10


class DatabaseUnusable(Exception):
    """The database cannot be used; the message is one line, without a password, and says what to do."""


class NoDatabase(DatabaseUnusable):
    """The URL leads to no database of this program, and none may be made there. The message gives the reason only."""


class OutcomeUnknown(Exception):
    """The connection broke during a commit: the transaction may be in the database or not."""


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


def connect(url: str, *, connections: int = 2, create: bool = True, patience: Patience | None = None) -> Sessions:
    """Return a session factory for `url`. Nothing is opened before the first session begins.

    `connections` is the most that this process holds open on PostgreSQL. Without `create` an SQLite file and its
    folder are never made: raises `NoDatabase` where there is no file. `patience` is how `read`, `write` and
    `write_once` wait for a database that is away: for half a minute if nothing is given.
    Raises `DatabaseUnusable` for a malformed URL, another kind of database, or SQLite on a network file system.
    """
    parsed = parse_url(url)
    is_file = parsed.get_backend_name() == "sqlite"
    engine = _sqlite_engine(parsed, create) if is_file else _postgresql_engine(parsed, connections)
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
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def _sqlite_engine(url: URL, create: bool) -> Engine:
    if not url.database or url.database == ":memory:":
        raise DatabaseUnusable(
            "SAM3_DATABASE_URL names no file, and a database in memory is seen by one process only; "
            "use sqlite:////path/to/file.db"
        )
    path = Path(url.database).absolute()
    kind = file_system(path)
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        raise DatabaseUnusable(f"{path}: SQLite needs a local disk (found {kind}); use PostgreSQL or another folder")
    if create:
        try:
            private.make_folder(path.parent)
        except OSError as error:
            raise DatabaseUnusable(f"{path.parent}: cannot make the database's folder: {error.strerror}") from None
        with suppress(OSError):  # SQLite reports the reason when it opens the file
            private.make_file(path)  # SQLite gives its log and index the same mode
        url = url.set(database=str(path))
    else:
        _require_file(path)
        if is_mounted_read_only(path):
            return _read_only_engine(url, path)
        # With mode=rw SQLite makes no file, even if this one vanishes before SQLite opens it.
        url = url.set(database=f"file:{quote(str(path))}").update_query_dict({"mode": "rw", "uri": "true"})
    engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS})
    event.listen(engine, "connect", lambda connection, record: _set_pragmas(connection, create))
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _read_only_engine(url: URL, path: Path) -> Engine:
    engine = create_engine(
        url,
        creator=lambda: open_read_only(path, LOCK_SECONDS),
        poolclass=NullPool,
        execution_options={"read_only": True},
    )

    @event.listens_for(engine, "connect")
    def begin_nothing_by_itself(connection: Any, record: object) -> None:
        connection.isolation_level = None

    event.listen(engine, "begin", _begin_immediate)
    return engine


def _require_file(path: Path) -> None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise NoDatabase("there is no such file") from None
    except OSError as error:
        raise NoDatabase(error.strerror or str(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise NoDatabase("it is not a file")


def _set_pragmas(connection: Any, create: bool) -> None:
    connection.isolation_level = None  # the driver begins no transaction by itself; `_begin_immediate` does
    # WAL lets readers go on while one process writes. With synchronous=NORMAL a power cut may lose the last commits,
    # but leaves the file consistent; the lost work is done again. FULL costs an fsync for each commit (measured: 5.6
    # commits a second instead of 67). Source: https://sqlite.org/pragma.html#pragma_synchronous.
    _switch_to_wal(connection, create)
    for pragma in ("synchronous=NORMAL", f"busy_timeout={1000 * LOCK_SECONDS}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _switch_to_wal(connection: sqlite3.Connection, create: bool) -> None:
    # SQLite's busy timeout does not apply to this switch: of two processes that open a new file at once, one may be
    # refused. So the switch is tried again.
    for attempt in itertools.count(1):
        try:
            # The switch writes to the file. So a file of another program is left alone, and so is an empty file unless
            # a database may be made in it.
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if is_ours(tables) or (create and not tables):
                connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if attempt == WAL_TRIES or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.1)
        else:
            return


def is_ours(tables: Collection[str]) -> bool:
    """Whether a database with these tables was made by this program, by any release of it."""
    return set(tables) >= OUR_TABLES


def _begin_immediate(connection: Any) -> None:
    # A transaction that reads first and writes later cannot wait for another writer: it fails at once with
    # "database is locked". Taking the write lock first makes it wait for the busy timeout instead.
    if connection.get_execution_options().get("read_only"):
        connection.exec_driver_sql("BEGIN")
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql_engine(url: URL, connections: int) -> Engine:
    try:
        return postgresql.open_engine(url, connections, LOCK_SECONDS)
    except ModuleNotFoundError:
        raise DatabaseUnusable("PostgreSQL needs its driver: pip install 'sam3-queue[postgres]'") from None
    except ValueError as error:
        raise DatabaseUnusable(f"SAM3_DATABASE_URL: {error}") from None


def file_system(path: Path) -> str:
    """The kind of file system that holds `path`, as /proc/self/mountinfo names it; empty where there is no such file.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""
    best, kind = "", ""
    resolved = str(path.resolve())
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4])
        if len(point) >= len(best) and (resolved + "/").startswith(point.rstrip("/") + "/"):
            best, kind = point, rest.split()[0]
    return kind


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


def describe_failure(error: DBAPIError | NoDatabase, url: str) -> str:
    """Say in half a line which database cannot be used and why, without its password."""
    parsed, kind = make_url(url), ""
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        where = str(Path(parsed.database).absolute())
        kind = file_system(Path(where))
    else:
        where = parsed.difference_update_query(SECRETS_IN_QUERY).render_as_string(hide_password=True)
    if isinstance(error, NoDatabase):
        return f"cannot use the database {where}: {error}"
    if is_busy(error):
        return f"the database {where} is held by another process for too long; end that one or try again later"
    return f"cannot use the database {where}: {refusal(error, kind)}"
