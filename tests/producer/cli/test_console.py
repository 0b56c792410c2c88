"""Whatever a text from outside holds, it is printed as it is."""

import errno
import io
import os
import re
from pathlib import Path

import pytest
from rich.table import Table

import producer
from producer.cli import console as console_module
from producer.cli.console import console, progress_bar
from producer.cli.progress import Meter

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


class Screen(io.StringIO):
    """A terminal, which may be closed."""

    gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(text)


@pytest.mark.parametrize("gone", [False, True])
def test_the_work_goes_on_when_its_terminal_is_closed(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    """The cursor is never hidden, since a command that is killed or suspended could not show it again."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen := Screen())
    with Meter("segmenting", "images") as meter:
        meter.tell(1, 2)
        screen.gone = gone
        meter.tell(2, 2)
    assert "images" in screen.getvalue()
    assert "\x1b[?25l" not in screen.getvalue()


def test_nobody_else_opens_a_console() -> None:
    door = Path(console_module.__file__)
    others = [path for path in Path(producer.__path__[0]).rglob("*.py") if path != door]

    assert [path.name for path in others if re.search(r"\b(Console|TextColumn|Progress)\(", path.read_text())] == []
