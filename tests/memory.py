"""Measures how much memory Python's objects take while a test does something. Knows nothing of what it does."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


class Traced:
    """What was measured."""

    peak = 0  # bytes of the objects made in the block that lived at once, at most; known after the block


@contextmanager
def traced() -> Iterator[Traced]:
    """Measure the block. Source: https://docs.python.org/3/library/tracemalloc.html."""
    found = Traced()
    tracemalloc.start()
    try:
        yield found
        found.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
