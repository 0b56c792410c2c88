"""What several tests of the producer need."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534  # a user id without rights


@pytest.fixture
def nobody_special(tmp_path: Path) -> Iterator[None]:
    """Root may read everything: run the test as somebody who may not, in a folder that they own and can reach."""
    if os.geteuid() != 0:
        yield
        return
    with tempfile.TemporaryDirectory() as reachable:
        os.chown(reachable, NOBODY, NOBODY)
        os.chdir(reachable)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
            os.chdir(tmp_path)
