"""What every kind of input offers to those who record it: facts about itself, its rows, and how it is recognised.

Knows no kind of input. A new kind is a class that follows `RowSource`, and its name in `producer/sources/kinds.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol

from db.intake import KnownRun, NewRow
from producer.sources.columns import Columns
from producer.sources.selection import LeftOut
from workers.errors import UsageError

RecordedRow = tuple[int, str, int | None]  # number of a row from 1, path, bytes of the file if it was read


@dataclass(frozen=True)
class Reading:
    """How an input is asked to be read. A kind that has no use for one of these refuses it."""

    encoding: str | None = None  # of text; None: found out
    delimiter: str | None = None  # between the cells of text; None: found out
    needs_prompt: bool = False  # the command has no prompt for all images: a row without one of its own is rejected
    image_column: str | None = None  # None: found out
    prompt_column: str | None = None
    root: Path | None = None  # that relative paths start from and that no path may leave
    follow_symlinks: bool = False
    exclude: Path | None = None  # the output folder: nothing in it is an input


AS_FOUND = Reading()


@dataclass(frozen=True)
class Survey:
    """A whole input at one look. `continues`: the known beginning is unchanged and ends with a whole row."""

    size: int  # bytes of a file, images of a folder
    mtime_ns: int  # of a file, or of the folder below which something was added or removed last
    sha256: str | None  # of the content; None where an input is not known by its content
    rows: int
    continues: bool
    # Numbers from 0, and paths, of good rows; empty where the files were seen when the input was read.
    sample: tuple[tuple[int, str], ...] = field(default=(), compare=False)


class RowSource(Protocol):
    """An input that images are recorded from.

    A fault of the whole input raises `UsageError`, from the constructor or from `survey`, before anything is recorded.
    A fault of one row makes it a rejected row. Memory must not grow with the rows. What the constructor saw is what is
    read: if the input changes before `survey` or `rows` ends, they raise `UsageError`.

    A class that names this as its base gets what has a body or a value here.
    """

    kind: ClassVar[str]  # what people call it in a sentence, such as CSV
    files_seen: ClassVar[bool] = False  # each image was there when the input was read: nobody need look for it
    path: Path  # where it is: absolute
    root: Path  # absolute folder that relative image paths start from
    confined: bool  # no image may lie outside of the root
    follow_symlinks: bool
    columns: Columns
    told: str = ""  # how it is read, if that was found out and is not what everybody expects: `with tabs between ...`
    left_out: tuple[LeftOut, ...] = ()  # what the last survey did not take for an image

    def __init__(self, path: Path, reading: Reading = AS_FOUND) -> None: ...

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether this kind reads what is there. Looks at the name and the first bytes at most."""

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Whether it looks as an earlier survey found it, and is read in the same way: without reading it."""

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Look at all of it. `known_size` and `known_sha256` are what an earlier survey found, if there was one."""

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The rows after the first `skip`, good and rejected, in their order."""

    def holds(self, known: KnownRun, recorded: Sequence[RecordedRow]) -> bool:
        """Whether it is what the run `known` was recorded from, perhaps with more behind it, though it stands
        elsewhere. `recorded` are some of the run's rows, at least one, in their order."""
        if known.source_sha256 is not None:
            return self.survey(known.source_size, known.source_sha256).continues
        if known.load > 1:  # it was edited, and the rows stand in another order
            return False
        numbered = {number: path for number, path, _ in recorded}
        rows = islice(enumerate(self.rows(), start=1), max(numbered))
        found = {number: row.path for number, row in rows if number in numbered}
        return found == numbered

    @property
    def named_columns(self) -> dict[str, str]:
        """Which of its columns are read, by what they hold."""
        found = {"image_column": self.columns.image, "prompt_column": self.columns.prompt}
        return {name: column for name, column in found.items() if column}

    def advice_on_backslashes(self) -> str:
        """What to do if its paths are written as on Windows."""
        return "write slashes for backslashes"


def require_prompts(reading: Reading) -> None:
    """Raise `UsageError` if neither the command nor a column says what to look for."""
    if reading.needs_prompt and not reading.prompt_column:
        raise UsageError("nothing to look for: give --prompt TEXT, or --prompt-column C")
