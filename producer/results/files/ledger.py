"""Remembers which files of a folder we wrote, for formats whose files have no place for a mark. Knows no format.

A file named `.sam3-files` in the folder holds checksums of each file's name and content. So a file that somebody has
changed is no longer ours, and a folder may be moved or copied.
"""

import hashlib
import os
import threading
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import BinaryIO

from producer.results.files.targets import Targets, writing
from workers.errors import UsageError

LEDGER = ".sam3-files"
START = b"sam3-queue: checksums of files\n\0"  # 32 bytes
KEY_BYTES = 8


class Ledger:
    """The `Signs` of files below `folder`. Needs 8 bytes of memory for each checksum that an earlier export left."""

    def __init__(self, folder: Path, targets: Targets) -> None:
        """Raises `UsageError` if the folder has a file of that name which is not ours."""
        self._folder, self._targets = folder, targets
        self._lock = threading.Lock()
        path = folder / LEDGER
        targets.check(path, is_ledger)
        with writing(path):
            content = path.read_bytes() if path.exists() else b""
        if content and not content.startswith(START):
            raise UsageError(f"{path} was not made by an export of ours: choose another -o")
        known = array("Q")
        keys = content[len(START) :]
        known.frombytes(keys[: len(keys) // KEY_BYTES * KEY_BYTES])
        self._known = array("Q", sorted(known))

    def holds(self, file: Path, digest: str) -> bool:
        content = _content(file)
        return content is not None and self._knows(self._key(file, content, digest))

    def is_ours_to_remove(self, file: Path) -> bool:
        content = _content(file)
        return content is not None and self._knows(self._key(file, content))

    def sign(self, file: Path, digest: str, content: bytes) -> None:
        keys = array("Q", [self._key(file, content), self._key(file, content, digest)]).tobytes()
        path = self._folder / LEDGER
        with self._lock, writing(path):
            ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                size = os.fstat(ledger).st_size
                # A power cut may have left a part of a key.
                os.write(ledger, (START if not size else b"\0" * (-size % KEY_BYTES)) + keys)
            finally:
                os.close(ledger)

    def recognises(self, path: Path, file: BinaryIO) -> bool:
        return self._knows(self._key(path, file.read()))

    def _key(self, file: Path, content: bytes, digest: str = "") -> int:
        name = os.fsencode(file.relative_to(self._folder))
        told = hashlib.blake2b(digest.encode() + b"\0" + name + b"\0" + content, digest_size=KEY_BYTES)
        return int.from_bytes(told.digest(), "little")

    def _knows(self, key: int) -> bool:
        place = bisect_left(self._known, key)
        return place < len(self._known) and self._known[place] == key


def is_ledger(file: BinaryIO) -> bool:
    """Whether we wrote this file, so that it may be continued."""
    return file.read(len(START)) == START


def _content(file: Path) -> bytes | None:
    """The content of an ordinary file; None if it cannot be read, or is a link."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            return opened.read()
    except OSError:
        return None
