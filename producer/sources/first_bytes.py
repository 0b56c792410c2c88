"""The name and the first bytes of a file, by which its kind is known. Raises no errors: a kind that reads it does.

Knows no kind.
"""

import codecs
import gzip
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from producer.sources.file import GZIP

LOOKED_AT = 1 << 16  # bytes


class FirstBytes:
    """`name` is in lower case and without `.gz`; `content` are the first bytes, unpacked; `text` is their text."""

    def __init__(self, path: Path) -> None:
        name = path.name.lower()
        self.name = name.removesuffix(".gz")
        self.content = _head(path)

    @property
    def text(self) -> str:
        """As UTF-8, or as UTF-16 if they begin with its mark; what is no text becomes \ufffd."""
        utf16 = self.content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return self.content.decode("utf-16" if utf16 else "utf-8-sig", "replace")


def _head(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not os.path.isfile(path):
                return b""
            head = file.read(LOOKED_AT)
            if not head.startswith(GZIP):
                return head
            file.seek(0)
            return gzip.GzipFile(fileobj=cast(BinaryIO, file)).read(LOOKED_AT)
    except (OSError, EOFError, zlib.error):
        return b""
