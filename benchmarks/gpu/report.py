"""The figures so far, kept in a file after each one, so that a second call takes what is left. Knows no parts."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.timing import Row, table

JSON, MARKDOWN = "gpu.json", "gpu.md"


class OtherFigures(Exception):
    """The folder holds figures of another card, model or version; the text says which."""


class Report:
    """Figures in `folder`, all of the same `facts`. `measure` begins nothing that the time does not allow."""

    def __init__(self, folder: Path, facts: Mapping[str, str], limit_seconds: float) -> None:
        """Go on with what is in the folder. Raises `OtherFigures`."""
        self.folder = folder
        self._path = folder / JSON
        self._facts = dict(facts)
        self._deadline = time.monotonic() + limit_seconds
        self._parts: dict[str, dict[str, Row]] = {}
        self.left: dict[str, str] = {}  # what is not there yet: its name, and why
        if self._path.exists():
            found = json.loads(self._path.read_text())
            differs = [name for name, value in self._facts.items() if found["facts"].get(name) != value]
            if differs:
                was = ", ".join(f"{name} {found['facts'].get(name)}" for name in differs)
                raise OtherFigures(f"{self._path} holds figures of another {', '.join(differs)} ({was})")
            self._parts = found["parts"]
        folder.mkdir(parents=True, exist_ok=True)

    def row(self, part: str, name: str) -> Row | None:
        """What was measured, if it was."""
        return self._parts.get(part, {}).get(name)

    def rows(self, part: str) -> list[Row]:
        return list(self._parts.get(part, {}).values())

    def measure(self, part: str, name: str, least_seconds: float, work: Callable[[], Row]) -> None:
        """Keep the row that `work` makes, unless it is there, or fewer seconds than these are left. What fails is
        noted and costs the others nothing; a later call tries it again."""
        if self.row(part, name) is not None:
            return
        what = f"{part}: {name}" if name else part
        if time.monotonic() + least_seconds > self._deadline:
            self.left[what] = "no time was left"
            return
        began = time.monotonic()
        try:
            row = work()
        except Exception as error:  # on a device that nobody has tried, anything may fail
            line = str(error).strip().partition("\n")[0]
            self.left[what] = f"{type(error).__name__}: {line}"
            print(f"{what}: {self.left[what]}", flush=True)
            return
        self._parts.setdefault(part, {})[name] = row
        self._save()
        print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)

    def _save(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({"facts": self._facts, "parts": self._parts}, indent=1))
        fresh.replace(self._path)

    def write(self, tables: Mapping[str, Sequence[Row]]) -> Path:
        """Write the tables under their titles, and what is missing, beside the figures; return the file's path."""
        unnamed = ("card", "model")
        facts = [value if name in unnamed else f"{name} {value}" for name, value in self._facts.items()]
        blocks = [f"## {self._facts['card']}", f"{', '.join(facts)}."]
        for title, rows in tables.items():
            blocks += [f"### {title}", table(rows)]
        if self.left:
            blocks.append(f"Not measured: {'; '.join(f'{what} ({why})' for what, why in self.left.items())}.")
        path = self.folder / MARKDOWN
        path.write_text("\n\n".join(blocks) + "\n")
        return path
