"""Tiny random checkpoints of the families beside SAM3."""

from pathlib import Path

import pytest

from workers.tiny.pair import write_random_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Grounding DINO and a SAM2 that find something in every photograph."""
    detector, _, masks = write_random_pair(tmp_path_factory.mktemp("pair")).partition("+")
    return Path(detector), Path(masks)
