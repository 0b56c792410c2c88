"""The file in which a running `sam3-broker` publishes its URL, with its password, for commands of the same user.

It is in the state folder, no other user can read it, and it is locked while the broker runs. Knows no broker.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from db import private
from workers.errors import UsageError
from workers.settings import url_file

LOCK_SECONDS = 1.0  # to wait for the lock: a command that only reads the file has it for a much shorter time


@contextmanager
def publishing(state_dir: Path, port: int) -> Iterator[str]:
    """Publish the URL of our broker on this port during the block; yield the password that the broker must ask for.

    The password stays the same over restarts, since workers go on meanwhile. Raises `UsageError` if another sam3-broker
    works with this state folder.
    """
    path = url_file(state_dir)
    private.make_folder(path.parent)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+") as file:
        _lock(file.fileno(), path.parent)
        os.fchmod(file.fileno(), 0o600)
        password = urlsplit(file.read().strip()).password or secrets.token_urlsafe(24)
        file.seek(0)
        file.truncate()
        file.write(f"redis://:{password}@localhost:{port}/0\n")
        file.flush()
        yield password


def _lock(file: int, folder: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"another sam3-broker works with {folder}: use that one, or another state folder"
                ) from None
            time.sleep(0.05)
        else:
            return
