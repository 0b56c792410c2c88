"""Brings a database to the newest schema with the migrations beside this file; knows no settings."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.orm import Session

from db.session import DatabaseUnusable, Sessions, reading, without_foreign_keys, write

UPGRADE_LOCK = 0x5A3  # any number of our own


def ensure_schema(sessions: Sessions) -> None:
    """Upgrade an SQLite database by itself; on PostgreSQL, whose schema has an owner, only check.

    Raises `DatabaseUnusable` when the schema is missing, older (PostgreSQL) or newer than this program.
    """
    with reading(sessions) as session:
        found, newest = revision(session.connection()), newest_revision()
        sqlite = session.get_bind().dialect.name == "sqlite"
    if found == newest:
        return
    if found is not None and found not in _known_revisions():
        raise DatabaseUnusable(
            "the database is newer than this program: install the release that made it, or a later one"
        )
    if not sqlite:
        state = "has no tables" if found is None else "has older tables"
        raise DatabaseUnusable(f"the database {state}: run sam3-db upgrade")
    upgrade(sessions)


def upgrade(sessions: Sessions) -> None:
    """Bring the schema to the newest revision, in one transaction."""
    with without_foreign_keys(sessions) as unchecked:
        write(unchecked, _upgrade)


def _upgrade(session: Session) -> None:
    connection = session.connection()
    if connection.dialect.name == "postgresql":  # one upgrade at a time; on SQLite it is the only writer anyway
        connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
    if revision(connection) != newest_revision():  # another process may have done it while we waited
        command.upgrade(_config(connection), "head")
        if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            raise DatabaseUnusable(
                "the upgrade would leave rows without the rows that they belong to: please report it"
            )


def revision(connection: Connection) -> str | None:
    """The schema's revision; None for a database without our tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _known_revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))  # it is read as a template
    config.set_main_option("path_separator", "os")
    return config
