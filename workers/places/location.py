"""Where an image is: the only module that joins a run's root and a row's path, and that asks a disk for images.

A row holds a path, and a run the root that relative paths start from; joined they are the image's place, a text: an
absolute path, or a URL. All code that stats, opens or shows a place does so here; for a URL these functions turn to
`buckets` or `web`. Errors are `OSError`s: `FileNotFoundError` if there is nothing, `PermissionError` if it may not be
read, `Unanswered` if a server is the reason and another try may help, and others. Knows no rows, no image formats and
no SQL.
"""

import io
import os
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from workers.errors import printable
from workers.places import buckets, urls, web
from workers.places.urls import Unanswered as Unanswered  # one of the errors of this module
from workers.places.urls import is_url as is_url

LATEST_NS = 2**63 - 1  # nanoseconds since 1970, in the year 2262. Databases store no later time, but files may have one

NOT_REGULAR = "not a regular file but a folder, a pipe, a socket or a device"


class NotRegular(OSError):
    """The place holds something that is no file, such as a folder or a pipe."""

    def __init__(self) -> None:
        super().__init__(0, NOT_REGULAR)


class LinkLeavesRoot(OSError):
    """A symbolic link leads out of the folder that it may not leave."""


@dataclass(frozen=True)
class FileSeen:
    """Size and time of a file when it was looked at, so that a later change can be noticed."""

    size: int  # bytes
    mtime_ns: int  # nanoseconds since 1970, at most `LATEST_NS`


class Remote(io.BytesIO):
    """The content of an object, which is fetched when it is first read, so that a too large one need not be."""

    def __init__(self, fetch: Callable[[], bytes]) -> None:
        super().__init__()
        self._fetch: Callable[[], bytes] | None = fetch

    def _fetched(self) -> None:
        if self._fetch is not None:
            super().write(self._fetch())
            super().seek(0)
            self._fetch = None

    def read(self, size: int | None = -1, /) -> bytes:
        self._fetched()
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._fetched()
        return super().seek(offset, whence)


def place(root: str, path: str) -> str:
    """The place of a row's image: `path`, joined to `root` unless it is absolute or a URL."""
    return path if "://" in path and is_url(path) else os.path.join(root, path)  # this runs once for each row


def is_relative(path: str) -> bool:
    """Whether the path starts from a root."""
    return not os.path.isabs(path) and not is_url(path)


def normal(path: str) -> str:
    """Normalise a path, so that equal paths have equal text. Looks at the text only: links are not followed."""
    if "://" in path and is_url(path):  # in two steps, and normpath imported by name, as this runs once for each row
        return urls.normal(path)
    plain = normpath(path)
    return plain[1:] if plain[:2] == "//" else plain  # normpath keeps two slashes at the start, which mean one here


def is_same(root: str, one: str, other: str) -> bool:
    """Whether two rows name the same place, judged by the text: one path may be absolute, the other start at `root`."""
    return one == other or normal(place(root, one)) == normal(place(root, other))


def leaves(root: str, path: str) -> bool:
    """Whether `path` leads out of `root`, judged by their text only. Both are normalised, and `root` is absolute."""
    if is_url(path):
        return not path.startswith(f"{root.rstrip('/')}/")
    if path.startswith("/"):
        return path != root and not path.startswith(root if root == "/" else f"{root}/")
    return path == ".." or path.startswith("../")


def spellings(place: str, root: str) -> Iterator[str]:
    """All paths by which a row may name this place: absolute, or relative to `root`, also with `..` in front."""
    if is_url(place):
        yield place
        if place.startswith(f"{root.rstrip('/')}/"):
            yield place[len(root.rstrip("/")) + 1 :]
        return
    for target in {os.path.abspath(place), os.path.realpath(place)}:
        yield target
        for start in set() if is_url(root) else {root, os.path.realpath(root)}:
            above = Path(start)
            for steps, folder in enumerate((above, *above.parents)):
                if Path(target).is_relative_to(folder):
                    yield "../" * steps + str(Path(target).relative_to(folder))


def absolute(place: str) -> str:
    """The place as an absolute path, which does not depend on the working folder."""
    return place if is_url(place) else os.path.abspath(place)


def shown(place: str) -> str:
    """The place for messages: absolute, and on one line."""
    return printable(absolute(place))


def stat(place: str) -> FileSeen:
    """Size and time of the file or folder at the place, links followed. Raises `OSError`."""
    try:
        return FileSeen(*_server(place).stat(place)) if is_url(place) else _seen(os.stat(place))
    except ValueError as error:  # a NUL in the path, or a key that no object can have
        raise OSError(0, str(error)) from None


def exists(place: str) -> bool:
    """Whether there is something at the place that this user can see: a file or a folder, with objects too."""
    return _has_object(place) or _has_any(place) if is_url(place) else os.path.exists(place)


@contextmanager
def opened(place: str, within: str | None = None) -> Iterator[tuple[FileSeen, BinaryIO]]:
    """Open the file at the place; yield its size and time before it is read, and the file. Never waits for a pipe.

    With `within`, an absolute folder, raises `LinkLeavesRoot` if a symbolic link leads out of that folder. Raises
    `NotRegular` if it is no file, `ValueError` for a text that names no file, and `OSError`.
    """
    if is_url(place):
        seen, content = _server(place).opened(place)
        yield FileSeen(*seen), Remote(content)
        return
    _check_regular(os.stat(place))  # before opening, as opening a device may have an effect
    descriptor = _descriptor(place)
    try:
        # The path of the open file is checked: a link could have changed after a check of `place`.
        if within is not None and leaves(os.path.realpath(within), _opened_path(descriptor, place)):
            raise LinkLeavesRoot
        status = os.fstat(descriptor)
        _check_regular(status)
        with open(descriptor, "rb", closefd=False) as file:
            yield _seen(status), file
    finally:
        os.close(descriptor)


def why_not_opened(place: str) -> OSError | None:
    """The error of opening the file now; None if it can be opened. An object is read whole, as that may fail later."""
    try:
        if is_url(place):
            with opened(place) as (_, file):
                file.read()
            return None
        os.close(_descriptor(place))
    except OSError as error:
        return error
    return None


def has_neighbours(place: str) -> bool:
    """Whether the folder of the image can be read and is not empty."""
    if is_url(place):
        return _has_any(place.rpartition("/")[0])
    with suppress(OSError), os.scandir(os.path.dirname(place)) as entries:
        return any(entries)
    return False


def _server(url: str) -> ModuleType:
    return web if urls.is_web(url) else buckets


def _has_object(url: str) -> bool:
    with suppress(OSError, ValueError):
        return bool(_server(url).stat(url))
    return False


def _has_any(folder: str) -> bool:
    if urls.is_web(folder):
        return True  # no web server tells; an image that is gone is then simply missing
    with suppress(OSError, ValueError):
        return buckets.has_any(folder)
    return False


def _descriptor(place: str) -> int:
    # O_NONBLOCK: if the file has become a pipe meanwhile, opening it must not wait for a writer.
    return os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _opened_path(descriptor: int, place: str) -> str:
    link = f"/proc/self/fd/{descriptor}"
    return os.readlink(link) if os.path.islink(link) else os.path.realpath(place)


def _check_regular(status: os.stat_result) -> None:
    if not modes.S_ISREG(status.st_mode):
        raise NotRegular


def _seen(status: os.stat_result) -> FileSeen:
    return FileSeen(status.st_size, min(status.st_mtime_ns, LATEST_NS))
