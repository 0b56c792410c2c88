"""Brings a database to the newest schema with the migrations in the folder beside this file; knows no settings.

Alembic is imported only where there is something to upgrade: all commands and workers check the schema, and a new
SQLite file gets its tables at once.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import Connection, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db.models import Base, Installation
from db.refusals import DatabaseUnusable, ForeignDatabase, NoDatabase, is_read_only
from db.session import Sessions, read, reading, without_foreign_keys, write
from db.sqlite import is_ours

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).with_name("migrations")
CANNOT_UPGRADE = (
    "the database has older tables and can only be read here: copy its folder to a disk of yours, "
    "where the same command brings them up to date"
)
VERSION_TABLE = "alembic_version"
UPGRADE_LOCK = 0x5A3  # key of an advisory lock; any number that no other program is likely to use


def ensure_schema(sessions: Sessions, *, create: bool = True) -> None:
    """Upgrade an SQLite database to the newest schema; check a PostgreSQL database, whose owner must upgrade it.

    Raises as `needs_upgrade` does.
    """
    if not needs_upgrade(sessions, create=create):
        return
    try:
        upgrade(sessions)
    except DBAPIError as error:
        raise DatabaseUnusable(CANNOT_UPGRADE) if is_read_only(error) else error from None


def needs_upgrade(sessions: Sessions, *, create: bool = True) -> bool:
    """Whether the schema of an SQLite database is older than this program's. Changes nothing.

    Raises `DatabaseUnusable` when the schema is missing, older (PostgreSQL) or newer than this program. Raises
    `NoDatabase` when the database is another program's, or without `create` when an SQLite file holds no tables.
    """
    try:
        with reading(sessions) as session:
            found = _revision(session)
    except DBAPIError as error:
        # A server that never answered is reported at once, without a wait: its name in the URL may be wrong.
        if not error.connection_invalidated:
            raise
        found = read(sessions, _revision)
    if found == newest_revision():
        return False
    _refuse_newer(found)
    if sessions.kw["bind"].dialect.name != "sqlite":
        state = "has no tables" if found is None else "has older tables"
        raise DatabaseUnusable(f"the database {state}: run sam3-db upgrade")
    if found is None and not create:
        raise NoDatabase("it is empty")
    if sessions.kw["bind"].get_execution_options().get("read_only"):
        raise DatabaseUnusable(CANNOT_UPGRADE)
    return True


def _revision(session: Session) -> str | None:
    return revision(session.connection())


def upgrade(sessions: Sessions) -> None:
    """Bring the schema to the newest revision, in one transaction."""
    with without_foreign_keys(sessions) as unchecked:
        write(unchecked, _upgrade)


def _upgrade(session: Session) -> None:
    connection = session.connection()
    if connection.dialect.name == "postgresql":  # one upgrade at a time; SQLite has one writer at a time anyway
        connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
    found = revision(connection)
    _refuse_newer(found)
    if found == newest_revision():  # another process has done it while we waited
        return
    if found is None and connection.dialect.name == "sqlite":
        _make_tables(connection)
    else:
        from alembic import command

        command.upgrade(_config(connection), "head")
        if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            raise DatabaseUnusable(
                "the upgrade would leave rows without the rows that they belong to: please report it"
            )


def _make_tables(connection: Connection) -> None:
    """Make the tables of a new SQLite file in a tenth of the time that the migrations take, to the same end."""
    Base.metadata.create_all(connection)
    connection.execute(insert(Installation).values(identity=uuid4().hex))
    connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:newest)"), {"newest": newest_revision()})


def refuse_newer(session: Session) -> None:
    """Raise `DatabaseUnusable` if a later release has upgraded the schema, perhaps while this program was running."""
    _refuse_newer(_revision(session))


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in _known_revisions():
        raise DatabaseUnusable(
            "the database is newer than this program: install the release that made it, or a later one"
        )


def revision(connection: Connection) -> str | None:
    """The schema's revision; None for a database without our tables. Raises `ForeignDatabase` for another program's."""
    tables = inspect(connection).get_table_names(own_schema(connection))
    if is_ours(tables) and VERSION_TABLE in tables:
        found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return found
    if connection.dialect.name == "sqlite":
        if tables:
            raise ForeignDatabase("it holds the tables of another program")
        return None
    # Other programs may have tables in the same PostgreSQL database, unless they are called like ours.
    if called_alike := sorted({*Base.metadata.tables, VERSION_TABLE} & set(tables)):
        schema = f'CREATE SCHEMA AUTHORIZATION "{connection.scalar(text("SELECT current_user"))}"'
        raise ForeignDatabase(
            f"it holds tables of another program that are called like ours ({', '.join(called_alike)}); "
            f"make a database for ours alone, or as its owner: {schema}"
        )
    return None


def own_schema(connection: Connection) -> str | None:
    """The schema of PostgreSQL in which our tables are made and looked for; None for SQLite, which has none."""
    return connection.dialect.default_schema_name if connection.dialect.name == "postgresql" else None


def newest_revision() -> str:
    """The schema's revision after all migrations of this program."""
    return max(_known_revisions())


@cache
def _known_revisions() -> frozenset[str]:
    """A file's name begins with its revision, 0001 for the first one.

    Read once: a later release may be installed over the files of a program that runs.
    """
    return frozenset(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    folder = str(MIGRATIONS).replace("%", "%%")  # ConfigParser reads % as the start of a name
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config
