"""Opens an SQLite file where SQLite cannot make its own files beside it: on a read-only mount. Knows no tables."""

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote


def is_mounted_read_only(path: Path) -> bool:
    """Whether the file system of `path`, as it is mounted here, takes no writes; false where that cannot be told."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def open_read_only(path: Path, seconds: float) -> sqlite3.Connection:
    """A connection for one short transaction: the next one looks anew how the file can be read.

    Beside somebody who writes it, elsewhere, lie a log and an index that all share. Without them nobody writes, and
    only then the file may be read as one that never changes, which needs no files beside it.
    """
    beside = [Path(f"{path}{ending}") for ending in ("-wal", "-shm")]
    still = not any(one.exists() and one.stat().st_size for one in beside)
    how = "mode=ro&immutable=1" if still else "mode=ro"
    return sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=seconds, check_same_thread=False)
