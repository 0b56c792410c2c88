"""Databases with our tables, made once a test process and copied for each test: a copy takes a tenth of the migrations.

Each copy gets an identity of its own, as the migrations give one to each database. Knows nothing of tests.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
from sqlalchemy.engine import make_url

from db.migrate import upgrade
from db.session import Sessions, connect, sqlite_url
from tests.db import audit

POSTGRESQL = "template_of_tests"


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


def make_postgresql(server: str) -> str:
    """Make a database with our tables and the audit's notes on the server; return its name."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {POSTGRESQL}")
    fill(_url(server, POSTGRESQL), audited=True)
    return POSTGRESQL


def create_postgresql(server: str, name: str, template: str | None) -> None:
    """Create a database, empty or as a copy of the template."""
    with psycopg.connect(server, autocommit=True) as admin:
        # The server may sync nothing, so that copying files is quicker than logging each block of them.
        like = f" TEMPLATE {template} STRATEGY FILE_COPY" if template else ""
        admin.execute(f"CREATE DATABASE {name}{like}")
    if template:
        with psycopg.connect(_url(server, name)) as connection:
            connection.execute(_identify())


def drop_postgresql(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _identify() -> str:
    """A statement: one of SQLAlchemy takes ten times as long, as each new engine compiles it anew."""
    return f"UPDATE installation SET identity = '{uuid4().hex}'"


def _close(sessions: Sessions) -> None:
    sessions.kw["bind"].dispose()  # a template that somebody is connected to cannot be copied


def _url(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)
