"""Makes all Rich consoles and bars, so that text from outside is never taken for markup. Knows no content."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """A console that prints brackets, colons and numbers as they are, since paths, prompts and errors may hold them."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


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
