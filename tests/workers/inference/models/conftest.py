"""Tiny random checkpoints of the families beside SAM3."""

from pathlib import Path

import pytest

from workers.tiny.pair import write_random_pair
from workers.tiny.tracker import write_random_tracker


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Grounding DINO and a SAM2 that find something in every photograph."""
    detector, _, masks = write_random_pair(tmp_path_factory.mktemp("pair")).partition("+")
    return Path(detector), Path(masks)


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM3 whose tracker finds something in every photograph."""
    return write_random_tracker(tmp_path_factory.mktemp("tracker"))
