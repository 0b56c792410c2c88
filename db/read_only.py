"""Opens an SQLite file where SQLite cannot make its own files beside it: on a read-only mount. Knows no tables."""

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote


def is_mounted_read_only(path: Path) -> bool:
    """Whether the file system of `path` is mounted read-only here; false where the system does not say."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def open_read_only(path: Path, seconds: float) -> sqlite3.Connection:
    """Open a connection for one short transaction, waiting up to `seconds` for locks.

    A process that writes the file, on another machine, keeps a log (-wal) and an index (-shm) beside it, and readers
    must use both. Where they are absent or empty nobody writes, and only then the file is opened as immutable, which
    needs no files beside it. The next transaction opens a new connection, as a writer may have started by then.
    Source: https://sqlite.org/wal.html#read_only_databases and https://sqlite.org/uri.html.
    """
    log_and_index = [Path(f"{path}{ending}") for ending in ("-wal", "-shm")]
    has_writer = any(file.exists() and file.stat().st_size for file in log_and_index)
    mode = "mode=ro" if has_writer else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=seconds, check_same_thread=False)
