"""Where an image is: the only module that joins a run's root and a row's path, and that asks a disk for images.

A row holds a path, and a run the root that relative paths start from; joined they are the image's place, a text. All
code that stats, opens or shows a place does so here, so that another kind of place, such as `s3://`, needs one more
file that these functions call. Errors are `OSError`s: `FileNotFoundError` if there is nothing, `PermissionError` if it
may not be read, and others. Knows no rows, no image formats and no SQL.
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

LATEST_NS = 2**63 - 1  # nanoseconds since 1970, in the year 2262. Databases store no later time, but files may have one

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|file:/|data:\w+/", re.IGNORECASE)
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


def place(root: str, path: str) -> str:
    """The place of a row's image: `path`, joined to `root` unless it is absolute."""
    return os.path.join(root, path)


def is_relative(path: str) -> bool:
    """Whether the path starts from a root."""
    return not os.path.isabs(path)


def unread_scheme(path: str) -> str | None:
    """The beginning of a path that is a URL, such as `s3://`, as no URL is read; None if the path is none."""
    found = _URL.match(path)
    return None if found is None else found[0]


def normal(path: str) -> str:
    """Normalise a path, so that equal paths have equal text. Looks at the text only: links are not followed."""
    plain = normpath(path)  # imported by name, as this runs once for each row
    return plain[1:] if plain[:2] == "//" else plain  # normpath keeps two slashes at the start, which mean one here


def leaves(root: str, path: str) -> bool:
    """Whether `path` leads out of `root`, judged by their text only. Both are normalised, and `root` is absolute."""
    if path.startswith("/"):
        return path != root and not path.startswith(root if root == "/" else f"{root}/")
    return path == ".." or path.startswith("../")


def spellings(place: str, root: str) -> Iterator[str]:
    """All paths by which a row may name this place: absolute, or relative to `root`, also with `..` in front."""
    for target in {os.path.abspath(place), os.path.realpath(place)}:
        yield target
        for start in {root, os.path.realpath(root)}:
            above = Path(start)
            for steps, folder in enumerate((above, *above.parents)):
                if Path(target).is_relative_to(folder):
                    yield "../" * steps + str(Path(target).relative_to(folder))


def absolute(place: str) -> str:
    """The place as an absolute path, which does not depend on the working folder."""
    return os.path.abspath(place)


def shown(place: str) -> str:
    """The place for messages: absolute, and on one line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in absolute(place))


def stat(place: str) -> FileSeen:
    """Size and time of the file or folder at the place, links followed. Raises `OSError`."""
    try:
        return _seen(os.stat(place))
    except ValueError as error:  # a NUL in the path
        raise OSError(0, str(error)) from None


def exists(place: str) -> bool:
    """Whether there is something at the place that this user can see."""
    return os.path.exists(place)


@contextmanager
def opened(place: str, within: str | None = None) -> Iterator[tuple[FileSeen, BinaryIO]]:
    """Open the file at the place; yield its size and time before it is read, and the file. Never waits for a pipe.

    With `within`, an absolute folder, raises `LinkLeavesRoot` if a symbolic link leads out of that folder. Raises
    `NotRegular` if it is no file, `ValueError` for a text that names no file, and `OSError`.
    """
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
    """The error of opening the file now; None if it can be opened."""
    try:
        os.close(_descriptor(place))
    except OSError as error:
        return error
    return None


def has_neighbours(place: str) -> bool:
    """Whether the folder of the image can be read and is not empty."""
    with suppress(OSError), os.scandir(os.path.dirname(place)) as entries:
        return any(entries)
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
