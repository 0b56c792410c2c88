"""What sources of several files have in common: the order of the files, their names, their columns. Reads no file."""

import re
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256

from producer.sources.file import SourceFile
from producer.sources.rows.cells import quoted
from workers.errors import UsageError

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


def keys_told(names: Sequence[str]) -> str:
    """That what folders such as `camera=2` say is not kept; empty if there are none. `names` are paths of files."""
    keys = sorted({part.partition("=")[0] for name in names for part in name.split("/")[:-1] if "=" in part})
    return f"without {', '.join(map(quoted, keys))}: names of folders are not kept" if keys else ""


def require_same_columns(first: SourceFile, its: Collection[str], other: SourceFile, names: Collection[str]) -> None:
    """Raise `UsageError` if the first file of a source has the columns `its`, and another one has others."""
    for name in sorted(set(its) ^ set(names)):
        has, lacks = (first, other) if name in its else (other, first)
        fault = f"{lacks.shown} has no column {quoted(name)}, {has.name} has"
        raise UsageError(f"{fault}; write all files of a source with the same columns")
