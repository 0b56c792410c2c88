"""Makes all Rich consoles and bars, so that text from outside is never taken for markup, and no terminal is left as it
must not be. Knows no content."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """A console that prints brackets, colons and numbers as they are, since paths, prompts and errors may hold them.

    What it writes to standard error is lost, and no error, once the terminal is closed: the work goes on.
    """
    file = cast(IO[str], _Lasting(sys.stderr)) if stderr and sys.stderr is not None else None
    return _Screen(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)


class _Screen(Console):
    """Never hides the cursor: a command that is suspended or killed could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _Lasting:
    """A file that may be a terminal which is closed meanwhile."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        with _if_there():
            self._file.write(text)

    def flush(self) -> None:
        with _if_there():
            self._file.flush()


@contextmanager
def _if_there() -> Iterator[None]:
    """Ignore the error of writing to a terminal that was closed."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class _Facts(ProgressColumn):
    """Shows the field `facts` of the task after the bar."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("facts", "")))


def progress_bar(on: Console, unit: str) -> Progress:
    """A bar with a description before it, and how much is done, the field `facts` and the time left after it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        _Facts(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=on, transient=True)
