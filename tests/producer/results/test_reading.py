import pytest

from producer.results.reading import rules_of_exports
from tests.producer.results.finished import Finished


def test_a_picture_that_a_worker_cut_into_tiles_may_be_as_large_as_memory_allows(
    run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.inference.reading.rules.usable_memory", lambda: 20 * 500_000_000)
    assert rules_of_exports(run.view).max_pixels == 500_000_000
