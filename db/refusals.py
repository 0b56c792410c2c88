"""Errors of the database: our own, and whether one of SQLAlchemy's passes by itself or refuses our statement.

Handles no error.

Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html and https://sqlite.org/rescode.html.
"""

import re
import sqlite3

from sqlalchemy import Engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

# Serialization failure, deadlock, lock timeout, lost or refused connections, a server that stops or starts, no
# connection left, a process that was idle in a transaction for too long, a standby that becomes the primary: the whole
# transaction may succeed a moment later.
READ_ONLY, NO_RIGHT = "25006", "42501"
NO_LETTER = "22P05"  # the encoding of the database has no such letter
RETRYABLE_SQLSTATES = ("40001", "40P01", "55P03", "08", "57P01", "57P02", "57P03", "53300", "25P03", READ_ONLY)

# A wrong number of values, a value that does not fit, a broken constraint, a wrong statement, a limit that is exceeded,
# a feature that does not exist.
REFUSED_SQLSTATES = ("21", "22", "23", "42", "54", "0A")
# Exceptions: the role lost a right; a pooler mixed up prepared statements. The statement itself is right.
NOT_OF_A_STATEMENT = (NO_RIGHT, "42P05")
REFUSED_BY_SQLITE = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
)


# SQLite must make or open its log and its index beside the file, and cannot.
NOTHING_BESIDE = (
    sqlite3.SQLITE_READONLY_DIRECTORY,
    sqlite3.SQLITE_READONLY_CANTINIT,
    sqlite3.SQLITE_READONLY_CANTLOCK,
)
# The file system has no memory maps or no locks that processes share.
NO_SHARED_MEMORY = (
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_MMAP,
)


_NOT_INTO_DATABASE = re.compile(r'permission denied for database ("[^"]+")')


class DatabaseUnusable(Exception):
    """The database cannot be used; the message is one line, without a password, and says what to do."""


class NoDatabase(DatabaseUnusable):
    """The URL leads to no database of this program, and none may be made there. The message gives the reason only."""


class ForeignDatabase(NoDatabase):
    """The URL leads to a database of another program, in which ours can make no tables."""


def passes(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed a moment later."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return is_busy(error)
    code = getattr(error.orig, "sqlstate", None)
    if code is not None:
        return bool(code.startswith(RETRYABLE_SQLSTATES))
    # An error without a code did not come from the server: the connection broke, or none could be made.
    return isinstance(error, OperationalError | InterfaceError) and not _driver_refuses(error)


def is_refused(error: SQLAlchemyError) -> bool:
    """Whether the database works and refuses our statement or its values, and would refuse it from any worker."""
    if not isinstance(error, DBAPIError):  # SQLAlchemy's own errors are about a statement, except for these three
        return not isinstance(error, PoolTimeout | DisconnectionError | PendingRollbackError)
    if isinstance(error, IntegrityError | DataError):
        return True
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", None)
        # An error without a code comes from Python's sqlite3 module: it was called in a wrong way.
        return isinstance(error, ProgrammingError) if code is None else code & 0xFF in REFUSED_BY_SQLITE
    code = getattr(error.orig, "sqlstate", None)
    if code is None:
        return _driver_refuses(error)
    return code.startswith(REFUSED_SQLSTATES) and code not in NOT_OF_A_STATEMENT


def is_busy(error: DBAPIError) -> bool:
    """Whether another process kept SQLite's write lock for longer than we wait."""
    code = getattr(error.orig, "sqlite_errorcode", 0) or 0
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_read_only(error: DBAPIError) -> bool:
    """Whether an SQLite file, or the folder that it lies in, is read-only."""
    return (getattr(error.orig, "sqlite_errorcode", 0) or 0) & 0xFF == sqlite3.SQLITE_READONLY


def sqlite_reason(error: DBAPIError, kind: str) -> str | None:
    """What an error of SQLite means and what to do about it; None if its own message is clear.

    `kind` is the kind of the file system, or empty.
    """
    code = getattr(error.orig, "sqlite_errorcode", 0) or 0
    if code in NO_SHARED_MEMORY:
        on = f"its file system ({kind})" if kind else "its file system"
        return f"{on} has no memory maps or locks that processes share, which SQLite needs; use a local disk"
    if code in NOTHING_BESIDE or code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return (
            f"{error.orig}; SQLite has to make files beside it: the folder must be writable, "
            "or copy all of it to a disk of yours"
        )
    if is_read_only(error):
        return "it can only be read here; copy it to a disk of yours to change anything"
    return None


def refusal(error: DBAPIError, kind: str = "") -> str:
    """Say in one line what the database said, and which right is missing. `kind` is the kind of its file system."""
    if (reason := sqlite_reason(error, kind)) is not None:
        return reason
    first = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
    return "; ".join([first, *advice(error)])


def advice(error: BaseException) -> list[str]:
    """What to do about an error, as `advise` has noted it."""
    return list(getattr(error, "__notes__", ()))


def advise(error: StatementError, original: BaseException, engine: Engine) -> None:
    """Note on an error what to do, in a few words, if PostgreSQL refused a right, a write or a letter.

    It is a note and no `detail`, with which the error's text would begin: a log that shows the first line would lose
    what the server said.
    """
    code = getattr(original, "sqlstate", None)
    if code == READ_ONLY:
        error.add_note(
            "this server only reads, as a standby does: name the primary, or add ?target_session_attrs=read-write"
        )
    elif code == NO_LETTER:
        make = "CREATE DATABASE sam3 ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        error.add_note(f"use a database whose encoding has all letters: {make}")
    elif code == NO_RIGHT or (code is None and _NOT_INTO_DATABASE.search(str(original))):  # no code before the log-in
        user = engine.url.username
        schema = engine.dialect.default_schema_name or "public"  # the one that our tables are in
        error.add_note(_how_to_be_allowed(str(original), f'"{user}"' if user else "this role", schema))


def _how_to_be_allowed(said: str, role: str, schema: str) -> str:
    """What to do about a right that PostgreSQL says is missing. `role` is quoted."""
    if said.startswith("must be owner"):
        return "only the role that made the tables may change them: name it in SAM3_DATABASE_URL"
    if named := _NOT_INTO_DATABASE.search(said):
        return f"as its owner: GRANT CONNECT ON DATABASE {named[1]} TO {role}"
    if named := re.search(r"for schema (\S+)", said):
        return f"as its owner: GRANT CREATE, USAGE ON SCHEMA {named[1]} TO {role}"
    # All that a worker or a producer needs, so that nobody is told one missing right after the other.
    tables = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    return f"as its owner: {tables}; GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"


def _driver_refuses(error: DBAPIError) -> bool:
    """Whether PostgreSQL's driver refused to send a statement, such as one with too many parameters."""
    of_driver = type(error.orig).__module__.startswith("psycopg")  # by name, as the driver may not be installed
    return of_driver and error.statement is not None and not error.connection_invalidated
