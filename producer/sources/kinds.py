"""Chooses the kind of input that reads a path. The only place that lists all kinds; knows nothing else of them."""

from collections.abc import Sequence
from pathlib import Path

from producer.sources.csv_source import CsvSource
from producer.sources.folder import FolderSource
from producer.sources.source import ReadOptions, RowSource

# The first kind that takes a path reads it. The last kind takes every path, and its constructor raises the error.
FOLDERS: Sequence[type[RowSource]] = (FolderSource,)
FILES: Sequence[type[RowSource]] = (CsvSource,)


def open_source(path: Path, options: ReadOptions) -> RowSource:
    """Open the input at `path`, of any kind. Raises `UsageError` if it cannot be read, or holds no images."""
    return _open((*FOLDERS, *FILES), path, options)


def open_file(path: Path, options: ReadOptions) -> RowSource:
    """Open the file at `path` that names images, and not a folder. Raises `UsageError` like `open_source`."""
    return _open(FILES, path, options)


def _open(kinds: Sequence[type[RowSource]], path: Path, options: ReadOptions) -> RowSource:
    kind = next(kind for kind in kinds if kind.takes(path, options))
    return kind(path, options)
