"""Whatever a text from outside holds, it is printed as it is."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table

import producer
from producer.cli import console as console_module
from producer.cli.console import console, progress_bar

HOSTILE = ["[/x]", "[raw] photo.jpg", "[bold red]x[/]", ":smile:", "a[link=http://x]b", "[[1]]", r"\[a]"]


@pytest.mark.parametrize("text", HOSTILE)
def test_brackets_are_no_markup_in_lines_and_tables(text: str) -> None:
    screen = console()
    screen.file = printed = io.StringIO()
    table = Table("path", box=None)
    table.add_row(text)

    screen.print(text)
    screen.print(table)

    assert printed.getvalue().count(text) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_brackets_are_no_markup_above_a_bar(text: str) -> None:
    screen = console()
    screen.file = printed = io.StringIO()
    bar = progress_bar(screen, "images")
    bar.add_task(text, total=3)

    screen.print(bar.get_renderable())

    assert text in printed.getvalue()


def test_nobody_else_opens_a_console() -> None:
    door = Path(console_module.__file__)
    others = [path for path in Path(producer.__path__[0]).rglob("*.py") if path != door]

    assert [path.name for path in others if re.search(r"\b(Console|TextColumn|Progress)\(", path.read_text())] == []
