"""What an export format declares about itself, and how one is found by its name. Knows nothing else of any format.

`producer.results.format_names` lists the formats.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from db.views.results import ExportedImage
from producer.libraries import is_installed
from producer.results.common import ExportRequest, Summary, TellRows
from producer.results.format_names import MODULES, declaration
from workers.errors import UsageError

FLAT = {"flat": "rows of instances"}  # what `Format.takes` of a table with nested values holds


@dataclass(frozen=True)
class Places:
    """Which files images get, where two images may want the same. It is checked before anything is written."""

    of: Callable[[str], object]  # path of an image -> its file
    once: bool  # whether a file holds all of an image, so that two rows may not share an image


@dataclass(frozen=True)
class Format:
    """One way to write a run's results.

    `write` gets the images in the order of the source's rows, and must not hold all of them in memory. After each image
    it calls `TellRows` with the number of images so far. It writes through `request.files`, which writes files whole or
    not at all, and replaces none that is not ours.
    """

    write: Callable[[ExportRequest, Iterable[ExportedImage], TellRows], Summary]
    is_ours: Callable[[BinaryIO], bool]  # whether this format wrote a file, which is open at its start
    suffix: str  # of the file, or of the files in the folder
    stem: str = "results"  # of the file's name, where the user names none
    folder: bool = False  # it fills a folder, and the same command again continues
    origin_beside: bool = False  # its file has no place for how it was made: a second one says so, see `origin_file`
    takes: Mapping[str, str] = field(default_factory=dict)  # its own flags: name -> what the flag is for, in words
    needs: tuple[str, ...] = ()  # libraries that the base installation lacks
    extra: str = "export"  # the extra of our package that installs these libraries
    place: Callable[[ExportRequest], Places | None] | None = None  # where images may want the same file


def format_named(name: str) -> Format:
    """The format with this name, a key of `MODULES`."""
    found = declaration(name)
    assert isinstance(found, Format)
    return found


def require_libraries(name: str) -> None:
    """Raise `UsageError` if a library that the format needs is not installed."""
    wanted = format_named(name)
    for library in wanted.needs:
        if not is_installed(library):
            raise UsageError(f"{name} export needs {library}: pip install 'sam3-queue[{wanted.extra}]'")


def own_flags() -> list[str]:
    """The flags that only some formats take, each once."""
    return list(dict.fromkeys(flag for name in MODULES for flag in format_named(name).takes))


def require_taken(name: str, flag: str, value: object) -> None:
    """Raise `UsageError` if the format `name` does not take the flag `flag`, which was given with `value`."""
    has = {other: format_named(other).takes[flag] for other in MODULES if flag in format_named(other).takes}
    if name not in has:
        name_of_flag = "--" + flag.replace("_", "-")
        given = name_of_flag if value is True else f"{name_of_flag} {value}"
        names, what = " or ".join(has), next(iter(has.values()))
        raise UsageError(f"{given}: only --format {names} has {what}")


def file_of(folder: Path, name: str) -> Path:
    """The file of this format in a folder, or its folder there, where the user names none."""
    found = format_named(name)
    return folder / (found.stem if found.folder else f"{found.stem}{found.suffix}")


def names_of_files() -> list[str]:
    """The formats that write one file each."""
    return [name for name in MODULES if not format_named(name).folder]
