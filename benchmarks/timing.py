"""Times of several ways to do the same, taken in turns in one run so that a busy machine hits all alike; and tables."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """Seconds: the median of the repeats, and how far they spread."""

    median: float
    least: float
    most: float

    @property
    def text(self) -> str:
        """Milliseconds, as in "12.3 (11.9..14.0)"."""
        return f"{self.median * 1e3:.3g} ({self.least * 1e3:.3g}..{self.most * 1e3:.3g})"


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """The times of each way. Each runs once before, uncounted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: Times(statistics.median(taken), min(taken), max(taken)) for name, taken in seconds.items()}


def as_rows(measured: Sequence[Any]) -> list[Row]:
    """Dataclasses as rows, their fields' names in words."""
    return [{name.replace("_", " "): value for name, value in asdict(one).items()} for one in measured]


def table(rows: Sequence[Row]) -> str:
    """The rows, which have the same keys, as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
