"""What every kind of input must offer: facts about itself, its rows, and how it is recognised.

Knows no kind of input. A new kind is a class that follows `RowSource`, and its name in `producer/sources/kinds.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol

from db.intake import KnownRun, NewRow
from producer.sources.rows.columns import PATHS_ALONE, Columns
from producer.sources.selection import LeftOut
from workers.errors import UsageError

RecordedRow = tuple[int, str, int | None]
"""Number of the row from 1, path, and bytes of the file, or None if it was not read."""


@dataclass(frozen=True)
class ReadOptions:
    """How the user wants an input to be read. A kind of input refuses an option that it has no use for."""

    encoding: str | None = None  # of text; None: the kind of input finds it
    delimiter: str | None = None  # between the cells of text; None: the kind of input finds it
    needs_prompt: bool = False  # none is given for all images: a row without prompts or boxes of its own is rejected
    image_column: str | None = None  # None: the kind of input finds it
    prompt_column: str | None = None
    box_column: str | None = None
    root: Path | str | None = None  # folder or URL that relative paths start from and that no path may leave
    base: Path | str | None = None  # where relative paths start if there is no root; None: in the file's folder
    copy_of: str | None = None  # URL of the object that the file is a copy of: so the source is shown and recorded
    follow_symlinks: bool = False
    exclude: Path | None = None  # the output folder: no file in it is an input


DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True)
class Survey:
    """Facts about a whole input, found by reading it once."""

    size: int  # bytes of a file, images of a folder
    mtime_ns: int  # of a file, or the latest one of a folder and the folders below it; nanoseconds since 1970
    sha256: str | None  # of the content, and how it is read; None if this kind of input has no checksum
    rows: int
    continues: bool  # the part that an earlier survey read is unchanged and ends with a whole row
    # (number from 0, path) of some good rows; empty if the files themselves were seen when the input was read.
    sample: tuple[tuple[int, str], ...] = field(default=(), compare=False)


class RowSource(Protocol):
    """An input that images are recorded from.

    If the whole input is bad, the constructor or `survey` raises `UsageError`, before anything is recorded. If one row
    is bad, it becomes a rejected row. Memory must not grow with the number of rows. If the input changes before
    `survey` or `rows` has ended, they raise `UsageError`.

    A class that has this as its base inherits the values and the method bodies below.
    """

    kind: ClassVar[str]  # its name in a sentence, such as CSV
    files_seen: ClassVar[bool] = False  # every image was seen when the input was read, so no further look is needed
    place: str  # how the run knows it: its absolute path or its URL, see `producer/sources/place.py`
    root: str  # absolute folder or URL that relative image paths start from
    confined: bool  # no image may lie outside of the root
    follow_symlinks: bool
    columns: Columns
    told: str = ""  # how it is read, such as `with tabs between its cells`, if it was found and users may not expect it
    left_out: tuple[LeftOut, ...] = ()  # files that the last survey did not take for images

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None: ...

    @classmethod
    def takes(cls, path: Path, options: "ReadOptions") -> bool:
        """Whether this kind of input reads the file or folder at `path`. Looks at its name and first bytes at most."""

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Whether the input is as an earlier survey found it and is read in the same way. Does not read its content."""

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Read the whole input. `known_size` and `known_sha256` are those of an earlier survey, if there was one."""

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The rows after the first `skip`, good and rejected, in the input's order."""

    def holds(self, known: KnownRun, recorded: Sequence[RecordedRow]) -> bool:
        """Whether the run `known` was recorded from this content, which was at another path then.

        More rows at the end are allowed. `recorded` are some of the run's rows, at least one, in the run's order.
        """
        if known.source_sha256 is not None:
            return self.survey(known.source_size, known.source_sha256).continues
        if not known.source_size:  # a sample, whose rows may be anywhere
            return self._has_all({path for _, path, _ in recorded})
        if known.load > 1:  # the input was edited, so its rows no longer have the order of their numbers
            return False
        numbered = {number: path for number, path, _ in recorded}
        rows = islice(enumerate(self.rows(), start=1), max(numbered))
        found = {number: row.path for number, row in rows if number in numbered}
        return found == numbered

    def _has_all(self, paths: set[str]) -> bool:
        for row in self.rows():
            paths.discard(row.path)
            if not paths:
                return True
        return False

    @property
    def named_columns(self) -> dict[str, str]:
        """The columns that are read, by the flag that names them: `image_column`, `prompt_column`, `box_column`."""
        columns = self.columns
        if columns is PATHS_ALONE:  # not ==: a CSV may have just this column
            return {}
        found = {"image_column": columns.image, "prompt_column": columns.prompt, "box_column": columns.boxes}
        return {name: column for name, column in found.items() if column}

    def advice_on_backslashes(self) -> str:
        """What the user can do if the paths are written with backslashes, as on Windows."""
        return "write slashes for backslashes"


def require_prompts(options: ReadOptions) -> None:
    """Raise `UsageError` if neither the command nor a column says what to look for."""
    if options.needs_prompt and not (options.prompt_column or options.box_column):
        raise UsageError("nothing to look for: give --prompt TEXT, --prompt-column C, --box-column C or --everything")
