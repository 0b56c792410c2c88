"""Chooses the kind of input that reads a path. The only place that lists all kinds; knows nothing else of them."""

from collections.abc import Sequence
from pathlib import Path

from producer.sources import place
from producer.sources.bucket import BucketSource
from producer.sources.bucket import rows_below as rows_below  # which files of a bucket are read as a list of images
from producer.sources.folder import FolderSource, PatternSource
from producer.sources.parquet.parquet_source import ParquetFolderSource, ParquetSource
from producer.sources.parts_source import PartsSource
from producer.sources.source import ReadOptions, RowSource
from producer.sources.text.csv_source import CsvSource
from producer.sources.text.jsonl_source import JsonLinesSource
from producer.sources.text.list_source import ListSource

# The first kind that takes a path reads it. The last kind takes every path, and its constructor raises the error.
KINDS: Sequence[type[RowSource]] = (
    PartsSource,
    ParquetFolderSource,
    FolderSource,
    PatternSource,
    ParquetSource,
    JsonLinesSource,
    ListSource,
    CsvSource,
)


def open_source(given: str | Path, options: ReadOptions) -> RowSource:
    """Open the input at the place `given`, of any kind. Raises `UsageError` if it cannot be read, or holds no images.

    A file in a bucket is not opened there, but as a copy on this machine, with `options.copy_of`.
    """
    if place.is_url(str(given)):
        return BucketSource(str(given), options)
    path = Path(given)
    kind = next(kind for kind in KINDS if kind.takes(path, options))
    return kind(path, options)
