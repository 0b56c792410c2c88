"""A file that rows are read from: found, opened, unpacked if it is gzipped, hashed, watched for changes.

Knows no text and no rows.
"""

import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from producer.sources.rows.cells import escaped, unreadable
from workers.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LINE_BYTES = 1 << 24  # a longer line is refused, as it would be held in memory as a whole
HASH_DIGITS = 64  # of a SHA-256; in a `Survey` text follows that says how the bytes were read
GZIP = b"\x1f\x8b"
_GZIPPED = " gzip "  # begins the part of that text which says how many bytes a gzipped file has
_IDENTITY = ("st_dev", "st_ino", "st_size", "st_mtime_ns")


class SourceFile:
    """One file that names images, as it was when it was found first.

    Errors say with `kind` what it should be, and show the URL `copy_of` for the path of a copy.
    """

    def __init__(self, path: Path, kind: str, copy_of: str | None = None) -> None:
        self.shown, self.kind = escaped(copy_of or str(path)), kind
        self.name = escaped(copy_of.rpartition("/")[2] if copy_of else path.name)
        self.path, self.is_copy = Path(os.path.abspath(path)), copy_of is not None
        self.stat = self._found(path)
        self.gzipped = False
        with self.faults(), self.open() as file:
            self.gzipped = file.read(len(GZIP)) == GZIP

    def _found(self, path: Path) -> os.stat_result:
        try:
            found = os.stat(path)
        except OSError as error:
            raise UsageError(unreadable(self.shown, error)) from error
        if stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{self.shown}: is a folder; give a {self.kind}")
        if not stat.S_ISREG(found.st_mode):
            again = "and it is read twice; save it to a file first, or give - and pipe it in"
            raise UsageError(f"{self.shown}: is no regular file, {again}")
        return found

    @property
    def plain_name(self) -> str:
        """Name of the file in lower case, without `.gz`."""
        return self.path.name.lower().removesuffix(".gz")

    @property
    def stamp(self) -> str:
        """Text for the end of the hash of the content: empty, or the bytes of the gzipped file."""
        return f"{_GZIPPED}{self.stat.st_size}" if self.gzipped else ""

    def is_still(self, size: int, mtime_ns: int, stamp: str) -> bool:
        """Whether the file is as a survey found it, whose hash of the content ends with `stamp`.

        `size` is that of the content, which a gzipped file does not tell.
        """
        same_size = self.gzipped or self.stat.st_size == size
        return same_size and self.stat.st_mtime_ns == mtime_ns and self.stamp == stamp

    def open(self) -> io.RawIOBase:
        """Open the content, unpacked. Raises `UsageError`."""
        try:
            file = io.FileIO(self.path)
        except FileNotFoundError as error:
            raise self.changed() from error
        except OSError as error:
            raise UsageError(unreadable(self.shown, error)) from error
        return _Unpacked(file) if self.gzipped else file

    def refuse_change(self) -> None:
        """Raise `UsageError` if the file is no longer the one that was found first."""
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise self.changed() from error
        if any(getattr(now, key) != getattr(self.stat, key) for key in _IDENTITY):
            raise self.changed()

    def changed(self) -> UsageError:
        return UsageError(f"{self.shown} changed while it was read; run the same command again")

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn errors of reading the content into `UsageError`."""
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.refuse_change()
            raise UsageError(f"{self.shown}: its gzip data are damaged or cut off; copy or make it again") from error
        except OSError as error:
            self.refuse_change()
            raise UsageError(f"{self.shown}: cannot be read: {error.strerror}; check its disk") from error


class _Unpacked(io.RawIOBase):
    """The content of a gzipped file."""

    def __init__(self, file: io.FileIO) -> None:
        self._file, self._content = file, gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        return self._content.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def content_stamp(known_sha256: str) -> str:
    """The hash of a survey with what says how its content was read, and without what says how that was packed."""
    return known_sha256.partition(_GZIPPED)[0]


class HashedContent(io.RawIOBase):
    """Hashes content as it is read; notes the hash at byte `mark`, and the bytes around it, up to `unit` on each side.

    Raises `UsageError` for a line that is too long, before it fills the memory: a small gzipped file may hold one.
    """

    def __init__(self, file: SourceFile, mark: int = 0, unit: int = 1) -> None:
        self._content, self._of = file.open(), file
        self.hash = sha256()
        self.sha256_at_mark: str | None = None
        self.size = 0  # bytes read so far
        self.edge = b""
        self._mark, self._edge = mark, (max(mark - unit, 0), mark + unit)
        self._line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        count = self._content.readinto(buffer) or 0
        block = memoryview(buffer).cast("B")[:count]
        self._line = 0 if re.search(rb"[\r\n]", block) else self._line + count
        if self._line > LINE_BYTES:
            size = f"a line of more than {LINE_BYTES >> 20} MiB"
            raise UsageError(f"{self._of.shown}: {size}; give a {self._of.kind} with one image a line")
        first, last = (min(max(place - self.size, 0), count) for place in self._edge)
        self.edge += block[first:last]
        before_mark = self._mark - self.size
        self.size += count
        if 0 < before_mark <= count:
            self.hash.update(block[:before_mark])
            self.sha256_at_mark = self.hash.hexdigest()
            block = block[before_mark:]
        self.hash.update(block)
        return count

    def close(self) -> None:
        self._content.close()
        super().close()
