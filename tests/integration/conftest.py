"""A terminal whose commands share a broker and a database, quick to notice what broke."""

import pytest

from tests.terminals import Terminal


@pytest.fixture
def here(terminal: Terminal, database_url: str, broker_url: str) -> Terminal:
    terminal.environment |= {
        "SAM3_DATABASE_URL": database_url,
        "SAM3_BROKER_URL": broker_url,
        "SAM3_BATCH_SIZE": "2",
        "SAM3_DECODE_THREADS": "1",
        "SAM3_RECONCILE_SECONDS": "1",
        "SAM3_ABSENT_SECONDS": "2",
    }
    return terminal
