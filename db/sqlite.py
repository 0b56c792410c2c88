"""Opens an SQLite file: where it may lie, its pragmas, and how its transactions begin. Knows tables by name only."""

import itertools
import re
import sqlite3
import stat
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from db import private
from db.read_only import is_mounted_read_only, open_read_only
from db.refusals import DatabaseUnusable, NoDatabase

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
OUR_TABLES = {"run", "chunk", "image"}  # tables that every release has
WAL_TRIES = 100  # 0.1 s apart


def open_engine(url: URL, lock_seconds: int, create: bool) -> Engine:
    """Make an engine for the file that `url` names, whose connections wait for a lock for `lock_seconds`.

    With `create` the file and its folder are made if they are missing. Raises `DatabaseUnusable`: the URL names no
    file, its folder cannot be made, or it is on a network file system. Raises `NoDatabase` without `create` where there
    is no file.
    """
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
            raise DatabaseUnusable(
                f"{path.parent}: cannot make the database's folder: {error.strerror}; "
                "set SAM3_DATABASE_URL to a place that can be written, as sqlite:////path/to/file.db"
            ) from None
        with suppress(OSError):  # SQLite reports the reason when it opens the file
            private.make_file(path)  # SQLite gives its log and index the same mode
        url = url.set(database=str(path))
    else:
        _require_file(path)
        if is_mounted_read_only(path):
            return _read_only_engine(url, path, lock_seconds)
        # With mode=rw SQLite makes no file, even if this one vanishes before SQLite opens it.
        url = url.set(database=f"file:{quote(str(path))}").update_query_dict({"mode": "rw", "uri": "true"})
    engine = create_engine(url, connect_args={"timeout": lock_seconds})
    event.listen(engine, "connect", lambda connection, record: _set_pragmas(connection, lock_seconds, create))
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _read_only_engine(url: URL, path: Path, lock_seconds: int) -> Engine:
    engine = create_engine(
        url,
        creator=lambda: open_read_only(path, lock_seconds),
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


def _set_pragmas(connection: Any, lock_seconds: int, create: bool) -> None:
    connection.isolation_level = None  # the driver begins no transaction by itself; `_begin_immediate` does
    # WAL lets readers go on while one process writes. With synchronous=NORMAL a power cut may lose the last commits,
    # but leaves the file consistent; the lost work is done again. FULL costs an fsync for each commit (measured: 5.6
    # commits a second instead of 67). Source: https://sqlite.org/pragma.html#pragma_synchronous.
    _switch_to_wal(connection, create)
    for pragma in ("synchronous=NORMAL", f"busy_timeout={1000 * lock_seconds}", "foreign_keys=ON"):
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
