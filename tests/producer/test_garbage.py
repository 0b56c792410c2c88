"""How loads and exports keep Python's garbage collector away, and leave it as they found it."""

import gc
from collections.abc import Iterator

import pytest

from producer.garbage import OBJECTS_BETWEEN_LOOKS, rarely_collected


@pytest.fixture
def collector() -> Iterator[None]:
    """Python's collector, which is as before after the test."""
    frozen, thresholds = gc.get_freeze_count() > 0, gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    if frozen:
        gc.freeze()


@pytest.mark.usefixtures("collector")
def test_all_is_searched_again_afterwards_as_often_as_before() -> None:
    gc.unfreeze()
    before = gc.get_threshold()
    with rarely_collected():
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == (OBJECTS_BETWEEN_LOOKS, *before[1:])
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before)


@pytest.mark.usefixtures("collector")
def test_modules_that_were_kept_from_it_before_stay_so() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    with rarely_collected():
        new: list[list[int]] = [[] for _ in range(1000)]
        assert gc.get_freeze_count() < before + len(new)  # what is made meanwhile may become garbage
    assert gc.get_freeze_count() > before / 2
