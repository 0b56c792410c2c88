"""The one door to everything that Rich prints: text from outside is never markup. Knows nothing of what is printed."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def console(*, stderr: bool = False) -> Console:
    """A console that prints brackets, colons and numbers as they are: paths, prompts and errors hold any of them."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def progress_bar(on: Console, unit: str) -> Progress:
    """A bar headed by what goes on, with how much of it is done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=on, transient=True)
