"""What holds for every test of db/."""

from collections.abc import Iterator

import pytest

from tests.db import door


@pytest.fixture(autouse=True)
def strangers() -> Iterator[list[str]]:
    """Whatever a test does: every statement that adds or changes a chunk comes from `db.chunks`."""
    with door.watched() as found:
        yield found
    assert found == []
