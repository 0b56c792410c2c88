"""Databases with our tables, made once a test process and copied for each test: a copy takes a tenth of the migrations.

On PostgreSQL a copy is emptied after its test and given to the next one.

Each copy gets an identity of its own, as the migrations give one to each database. Knows nothing of tests.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy.engine import make_url

from db.migrate import upgrade
from db.session import Sessions, connect, sqlite_url
from tests.db import audit

POSTGRESQL = "template_of_tests"
_OURS = "IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"


def fill(url: str, *, audited: bool) -> None:
    """Give an empty database our tables, and the audit's notes if `audited`, and leave it."""
    sessions = connect(url)
    upgrade(sessions)
    if audited:
        audit.install(sessions)
    _close(sessions)


def make_sqlite(path: Path, *, audited: bool) -> Path:
    """Make a file with our tables, and with the audit's notes if `audited`."""
    fill(sqlite_url(path), audited=audited)
    return path


def copy_sqlite(template: Path, path: Path) -> None:
    shutil.copy(template, path)  # the mode too: the file is its owner's alone
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(_identify())


class PostgresqlCopies:
    """Databases of one server with our tables and the audit's notes, each as new.

    One that a test gives back is emptied for a later test, as to make another one copies eight megabytes. It gets
    another name first, so that a process of the earlier test that still lives finds it no more.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._emptied: list[str] = []
        create_postgresql(server, POSTGRESQL)
        fill(_url(server, POSTGRESQL), audited=True)
        with psycopg.connect(_url(server, POSTGRESQL)) as connection:
            self._shape = _shape(connection)

    def take(self, name: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as admin:
            if self._emptied:
                admin.execute(f"ALTER DATABASE {self._emptied.pop()} RENAME TO {name}")
            else:
                # The server may sync nothing, so that copying files is quicker than logging each block of them.
                admin.execute(f"CREATE DATABASE {name} TEMPLATE {POSTGRESQL} STRATEGY FILE_COPY")
        with psycopg.connect(_url(self._server, name)) as connection:
            connection.execute(_identify())

    def give_back(self, name: str) -> None:
        emptied = f"emptied_{name}"
        try:
            with psycopg.connect(self._server, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
                admin.execute(f"ALTER DATABASE {name} RENAME TO {emptied}")
            with psycopg.connect(_url(self._server, emptied)) as connection:
                as_new = _shape(connection) == self._shape
                connection.execute(f"TRUNCATE {', '.join(_filled(connection))} RESTART IDENTITY")
                # PostgreSQL keeps what it learned of the rows, and would plan the next test's statements for them.
                connection.execute(f"DELETE FROM pg_statistic WHERE starelid {_OURS}")
        except psycopg.Error:
            as_new = False
        if as_new:
            self._emptied.append(emptied)
        else:
            drop_postgresql(self._server, name)
            drop_postgresql(self._server, emptied)


def create_postgresql(server: str, name: str) -> None:
    """Create an empty database."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")


def drop_postgresql(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _filled(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables that tests fill: all but those whose rows the migrations made."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
    return [name for (name,) in connection.execute(tables) if name not in ("alembic_version", "installation")]


def _shape(connection: psycopg.Connection[Any]) -> Any:
    """Something that is different once a table, a rule about one, or a setting of the database was changed.

    `xmin` of a row in the catalog is the transaction that wrote it last.
    """
    parts = (
        f"SELECT oid::text, relname::text, concat(relacl::text, reloptions::text) FROM pg_class WHERE oid {_OURS}",
        f"SELECT attrelid::text, attname::text, xmin::text FROM pg_attribute WHERE attrelid {_OURS}",
        f"SELECT conrelid::text, conname::text, xmin::text FROM pg_constraint WHERE conrelid {_OURS}",
        f"SELECT tgrelid::text, tgname::text, xmin::text FROM pg_trigger WHERE tgrelid {_OURS}",
        "SELECT oid::text, proname::text, xmin::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT oid::text, nspname::text, xmin::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'",
        "SELECT version_num::text, (SELECT count(*)::text FROM installation), NULL FROM alembic_version",
        "SELECT setrole::text, setconfig::text, NULL FROM pg_db_role_setting, pg_database"
        " WHERE pg_database.oid = setdatabase AND datname = current_database()",
        "SELECT datacl::text, datconnlimit::text, NULL FROM pg_database WHERE datname = current_database()",
    )
    return sorted(connection.execute(" UNION ALL ".join(parts)).fetchall(), key=str)


def _identify() -> str:
    """A statement: one of SQLAlchemy takes ten times as long, as each new engine compiles it anew."""
    return f"UPDATE installation SET identity = '{uuid4().hex}'"


def _close(sessions: Sessions) -> None:
    sessions.kw["bind"].dispose()  # a template that somebody is connected to cannot be copied


def _url(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)
