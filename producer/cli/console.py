"""The one door to everything that Rich prints: text from outside is never markup. Knows nothing of what is printed."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """A console that prints brackets, colons and numbers as they are: paths, prompts and errors hold any of them."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


class _Facts(ProgressColumn):
    """What is told behind the bar, if anything is."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("facts", "")))


def progress_bar(on: Console, unit: str) -> Progress:
    """A bar headed by what goes on, with how much of it is done, and its field `facts` behind it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        _Facts(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=on, transient=True)
