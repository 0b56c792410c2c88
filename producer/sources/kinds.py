"""Which kind of input a path is: the one place that lists them all."""

from collections.abc import Sequence
from pathlib import Path

from producer.sources.csv_source import CsvSource
from producer.sources.folder import FolderSource
from producer.sources.source import Reading, RowSource

# The first one that takes a path reads it. The last one takes everything, and says what is wrong with it.
FOLDERS: Sequence[type[RowSource]] = (FolderSource,)
FILES: Sequence[type[RowSource]] = (CsvSource,)


def open_source(path: Path, reading: Reading) -> RowSource:
    """The input at `path`, whatever it is. Raises `UsageError` if it cannot be read, or holds no images."""
    return _open((*FOLDERS, *FILES), path, reading)


def open_file(path: Path, reading: Reading) -> RowSource:
    """The same where only a file that names images is meant."""
    return _open(FILES, path, reading)


def _open(kinds: Sequence[type[RowSource]], path: Path, reading: Reading) -> RowSource:
    kind = next(kind for kind in kinds if kind.takes(path))
    return kind(path, reading)
