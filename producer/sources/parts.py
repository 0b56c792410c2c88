"""What sources of several files have in common: the order of the files, their names, their columns. Reads no file."""

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from hashlib import sha256
from urllib.parse import unquote

from producer.sources.file import SourceFile
from producer.sources.rows.cells import quoted, storable
from producer.sources.rows.columns import TEXT, Columns, refuse_our_names
from workers.errors import UsageError

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
FILES = " in "  # begins the part of the hash of a survey which says how the files lay there


def by_number(name: str) -> tuple[list[str | int], str]:
    """A key to sort names by, in which numbers count as numbers: `part.10` comes after `part.9`."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if part.isdecimal() else part for part in parts], name


def size_and_time(files: Iterable[SourceFile]) -> tuple[int, int]:
    """The bytes of all files together, and when the newest one was written, in nanoseconds since 1970."""
    stats = [file.stat for file in files]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def files_stamp(files: Iterable[SourceFile]) -> str:
    """Text for the end of the hash of a survey: the names, sizes and times of the files."""
    found = [(file.name, file.stat.st_size, file.stat.st_mtime_ns) for file in files]
    return f"{FILES}{sha256(repr(found).encode()).hexdigest()[:16]}"


def folder_cells(name: str) -> dict[str, str | None]:
    """Column -> cell of what the folders of a file say, such as `camera=2/part-0.csv`; `name` is the file's path.

    So Hive writes them, and Spark, DuckDB and datasets after it: percent escapes, and a name that stands for null.
    """
    pairs = (folder.partition("=") for folder in name.split("/")[:-1])
    said = {storable(unquote(key)): storable(unquote(value)) for key, sign, value in pairs if key and sign}
    return {key: None if value == _HIVE_NULL else value for key, value in said.items()}


def with_folder_columns(shown: str, columns: Columns, more: Iterable[str]) -> Columns:
    """The columns of files and those that their folders add, which are text. Raises `UsageError` for a name of ours."""
    added = [name for name in dict.fromkeys(more) if name not in columns.names]
    refuse_our_names(shown, added)
    types = None if columns.types is None else {**columns.types, **dict.fromkeys(added, TEXT)}
    return replace(columns, names=(*columns.names, *added), types=types)


def folders_told(columns: Columns, held: Collection[str]) -> str:
    """Which columns folders add to those that the files hold; empty if there are none."""
    added = [quoted(name) for name in columns.names if name not in held]
    word = "columns" if len(added) > 1 else "column"
    return f"with {word} {', '.join(added)} from the names of folders" if added else ""


def require_same_columns(first: SourceFile, its: Collection[str], other: SourceFile, names: Collection[str]) -> None:
    """Raise `UsageError` if the first file of a source has the columns `its`, and another one has others."""
    for name in sorted(set(its) ^ set(names)):
        has, lacks = (first, other) if name in its else (other, first)
        fault = f"{lacks.shown} has no column {quoted(name)}, {has.name} has"
        raise UsageError(f"{fault}; write all files of a source with the same columns")
