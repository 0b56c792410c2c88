"""The formats of exports: which there are, and what each of them says of itself. Knows none of them by itself.

A new format is a file beside this one that declares `FORMAT`, and a line in `MODULES`.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, BinaryIO

from workers.errors import UsageError

if TYPE_CHECKING:  # what these import asks here whether a file is ours
    from db.views.results import ExportedImage
    from producer.results.common import ExportRequest, Summary, TellRows

MODULES = {  # what --format calls it -> where it is declared; loaded when it is needed, since a --help needs none
    "csv": "producer.results.csv_file",
    "coco": "producer.results.coco",
    "png": "producer.results.png",
}


@dataclass(frozen=True)
class Format:
    """One way to write a run's results.

    `write` gets the images in the order of the source's rows, tells after each how many it has had, and writes through
    `request.files`: whole or not at all, and over nothing that is not ours. It must not hold all images in memory.
    """

    write: "Callable[[ExportRequest, Iterable[ExportedImage], TellRows], Summary]"
    is_ours: Callable[[BinaryIO], bool]  # whether a file, read from its start, is one that this format wrote
    suffix: str  # of the file, or of the files in the folder
    folder: bool = False  # it fills a folder, and the same command again goes on there
    takes: Mapping[str, str] = field(default_factory=dict)  # flags of its own: their names, and what it has for them
    needs: tuple[str, ...] = ()  # libraries beside those of the base
    extra: str = "worker"  # of our package, which installs those


def format_named(name: str) -> Format:
    """The format that --format calls so."""
    found = importlib.import_module(MODULES[name]).FORMAT
    assert isinstance(found, Format)
    return found


def require_libraries(name: str) -> None:
    """Raise `UsageError` if a library that the format needs is not installed."""
    wanted = format_named(name)
    for library in wanted.needs:
        if find_spec(library) is None:
            raise UsageError(f"{name} export needs {library}: pip install 'sam3-queue[{wanted.extra}]'")


def require_taken(name: str, flag: str, value: object) -> None:
    """Raise `UsageError` if only other formats take this flag, which was given a value."""
    takers = {other: format_named(other).takes.get(flag) for other in MODULES}
    if takers[name] is None:
        other = next(other for other in takers if takers[other])
        raise UsageError(f"--{flag} {value}: only --format {other} has {takers[other]}")


def names_of_files() -> list[str]:
    """The formats that write one file each."""
    return [name for name in MODULES if not format_named(name).folder]
