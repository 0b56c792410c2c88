"""The file in which a running `sam3-broker` tells commands of the same user its URL, with its password.

It lies in the state folder, for nobody else to read, and is locked for as long as the broker runs. Knows no broker.
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

LOCK_SECONDS = 1.0  # somebody who only looks holds the lock for far less


@contextmanager
def publishing(state_dir: Path, port: int) -> Iterator[str]:
    """Tell the URL of a broker of ours on this port for as long as this lasts; give the password that it has to ask
    for: always the same, since workers outlive a restart of it. Raises `UsageError` if another one does so already."""
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
