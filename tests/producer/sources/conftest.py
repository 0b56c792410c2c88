"""What the tests of all sources share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.source import RowSource
from producer.sources.text.csv_source import CsvSource


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


class Known:
    """What a survey found of a source, asked of the same source when it is opened again later."""

    def __init__(self, opened: Callable[[], RowSource]) -> None:
        self._opened = opened
        self._survey = opened().survey()

    def is_still(self) -> bool:
        assert self._survey.sha256 is not None
        return self._opened().is_still(self._survey.size, self._survey.mtime_ns, self._survey.sha256)

    def continues(self) -> bool:
        assert self._survey.sha256 is not None
        return self._opened().survey(self._survey.size, self._survey.sha256).continues


def write(content: str | bytes) -> Path:
    """The file images.csv with this content."""
    path = Path("images.csv")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(content: str | bytes) -> list[NewRow]:
    """The rows of a CSV with this content."""
    return list(CsvSource(write(content)).rows())
