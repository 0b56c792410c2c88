"""A terminal whose workers have a faulty model without torch, and clocks that run twenty times as fast."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults import farm
from tests.terminals import Terminal


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is long: each starts nodes of its own, to break something about them."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.long)


@pytest.fixture
def failing_attempts() -> set[str]:
    """Names of errors that attempts, or loads of a model, end with in this test: their tracebacks are shown."""
    return set()


@pytest.fixture
def here(
    terminal: Terminal, database_url: str, broker_url: str, tmp_path: Path, failing_attempts: set[str]
) -> Iterator[Terminal]:
    """However the test ends, no other traceback of our own code may stand in anybody's log."""
    (tmp_path / "markers").mkdir()
    terminal.environment |= {
        "SAM3_DATABASE_URL": database_url,
        "SAM3_BROKER_URL": broker_url,
        "SAM3_SEGMENTER": "tests.fakes:FaultySegmenter",
        "SAM3_BATCH_SIZE": "4",
        "SAM3_DECODE_THREADS": "1",
        "SAM3_LEASE_SECONDS": "3",
        "SAM3_HEARTBEAT_SECONDS": "0.5",
        "SAM3_RECONCILE_SECONDS": "0.5",
        "SAM3_ABSENT_SECONDS": "1",
        "SAM3_FAULT_PAUSE_SECONDS": "0.2",
        "SAM3_STALL_SECONDS": "2",
        "FAKE_LOG": str(tmp_path / "forwards.log"),
        "FAKE_MARKERS": str(tmp_path / "markers"),
    }
    yield terminal
    assert not farm.bugs_told(terminal.home, failing_attempts)


@pytest.fixture
def nobody_dies(here: Terminal) -> None:
    """Clocks of a test in which nobody dies or hangs, so that no slow machine looks like that."""
    here.environment |= {"SAM3_LEASE_SECONDS": "60", "SAM3_STALL_SECONDS": "60"}
