"""Shows the progress of long work: a bar on a terminal, else a line every ten seconds. Knows nothing of the work."""

import time
from types import TracebackType
from typing import Self

from producer.cli.console import console, progress_bar
from workers.cli.base import say

LINE_SECONDS = 10.0  # between plain lines


class Meter:
    """`with Meter("exporting", "images") as meter: meter.tell(done, total)`.

    Without a terminal, work that ends within `LINE_SECONDS` prints nothing.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        screen = console(stderr=True)
        self._bar = progress_bar(screen, unit) if screen.is_terminal else None
        self._task = self._bar.add_task(what, total=None, facts="") if self._bar is not None else None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, done: int, total: int, note: str | None = None, waiting: str | None = None, facts: str = "") -> None:
        """Show `done` of `total`. Without a terminal, `note` is printed instead if it is given.

        On a terminal, `waiting` replaces the description before the bar, and `facts`, such as the speed, come after it.
        """
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=waiting or self._what, facts=facts)
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            say(note or f"{self._what}: {done:,}/{total:,} {self._unit}")
