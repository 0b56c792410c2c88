"""Where an image is, and what is there: the only module that joins a run's root and a row's path, and asks a disk.

A row holds a path, a run the root that relative paths start from; both together are the image's place, one text. All
that stats, opens or shows a place does it here, so that another kind of place, such as `s3://`, is one more file that
these functions turn to. Errors are `OSError`s, whose kind says what to think of them: `FileNotFoundError` for what is
not there, `PermissionError` for what may not be read. Knows no rows, no image formats and no SQL.
"""

import os
import re
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import BinaryIO

LATEST_NS = 2**63 - 1  # in the year 2262: databases store no later time, but some clocks tell one

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|file:/|data:\w+/", re.IGNORECASE)
NOT_REGULAR = "not a regular file but a folder, a pipe, a socket or a device"


class NotRegular(OSError):
    """Something is there, but no file that could be read to its end."""

    def __init__(self) -> None:
        super().__init__(0, NOT_REGULAR)


class LinkLeavesRoot(OSError):
    """A symbolic link leads out of the folder that it may not leave."""


@dataclass(frozen=True)
class FileSeen:
    """A file as it was when it was looked at: enough to notice later that it changed."""

    size: int  # bytes
    mtime_ns: int  # nanoseconds since 1970, at most `LATEST_NS`


def place(root: str, path: str) -> str:
    """Where the image of a row is: `path`, which starts from `root` unless it is absolute."""
    return os.path.join(root, path)


def is_relative(path: str) -> bool:
    """Whether where the image is depends on a root."""
    return not os.path.isabs(path)


def unread_scheme(path: str) -> str | None:
    """How a path begins that is a URL, none of which is read, such as `s3://`; None for all others."""
    found = _URL.match(path)
    return None if found is None else found[0]


def normal(path: str) -> str:
    """The one way to write this path. Compares text only: links are not followed."""
    plain = normpath(path)  # runs once a row: reached without looking through `os.path`
    return plain[1:] if plain[:2] == "//" else plain  # POSIX lets two slashes be, but they mean one here


def leaves(root: str, path: str) -> bool:
    """Whether a normal `path` leads out of `root`, which is normal and absolute, judged by the spelling alone."""
    if path.startswith("/"):
        return path != root and not path.startswith(root if root == "/" else f"{root}/")
    return path == ".." or path.startswith("../")


def spellings(place: str, root: str) -> Iterator[str]:
    """Every way in which a row may write this place: absolute, or from `root`, also by a detour over a folder above."""
    for target in {os.path.abspath(place), os.path.realpath(place)}:
        yield target
        for start in {root, os.path.realpath(root)}:
            above = Path(start)
            for steps, folder in enumerate((above, *above.parents)):
                if Path(target).is_relative_to(folder):
                    yield "../" * steps + str(Path(target).relative_to(folder))


def absolute(place: str) -> str:
    """The place as any process of this machine finds it, whatever its working folder is."""
    return os.path.abspath(place)


def shown(place: str) -> str:
    """The place for a person: absolute, and in one line whatever it holds."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in absolute(place))


def stat(place: str) -> FileSeen:
    """What is there, links followed; may be a folder. Raises `OSError`."""
    try:
        return _seen(os.stat(place))
    except ValueError as error:  # a NUL in the path
        raise OSError(0, str(error)) from None


def exists(place: str) -> bool:
    """Whether something is there and can be seen."""
    return os.path.exists(place)


@contextmanager
def opened(place: str, within: str | None = None) -> Iterator[tuple[FileSeen, BinaryIO]]:
    """The file that is there, as it was before it was read, and its bytes. Never waits for a pipe or a device.

    With `within`, an absolute folder, a symbolic link may not lead out of it: raises `LinkLeavesRoot`. Raises
    `NotRegular` for what is no file, `ValueError` for a text that can name none, and `OSError`.
    """
    _check_regular(os.stat(place))  # already the opening of a device may do something
    descriptor = _descriptor(place)
    try:
        # What was really opened: a path that was checked beforehand could lead elsewhere by now.
        if within is not None and leaves(os.path.realpath(within), _opened_path(descriptor, place)):
            raise LinkLeavesRoot
        status = os.fstat(descriptor)
        _check_regular(status)
        with open(descriptor, "rb", closefd=False) as file:
            yield _seen(status), file
    finally:
        os.close(descriptor)


def why_not_opened(place: str) -> OSError | None:
    """Why the file cannot be opened now, or None if it can."""
    try:
        os.close(_descriptor(place))
    except OSError as error:
        return error
    return None


def has_neighbours(place: str) -> bool:
    """Whether the folder that the image stands in can be seen and holds anything."""
    with suppress(OSError), os.scandir(os.path.dirname(place)) as entries:
        return any(entries)
    return False


def _descriptor(place: str) -> int:
    # O_NONBLOCK: should it be a pipe by now, opening it would wait for somebody to write.
    return os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _opened_path(descriptor: int, place: str) -> str:
    link = f"/proc/self/fd/{descriptor}"
    return os.readlink(link) if os.path.islink(link) else os.path.realpath(place)


def _check_regular(status: os.stat_result) -> None:
    if not modes.S_ISREG(status.st_mode):
        raise NotRegular


def _seen(status: os.stat_result) -> FileSeen:
    return FileSeen(status.st_size, min(status.st_mtime_ns, LATEST_NS))
