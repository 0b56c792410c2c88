"""What the tests of all sources share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
