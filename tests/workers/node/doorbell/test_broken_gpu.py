"""A GPU or a model that is broken ends its process, and the chunk comes back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from db import claims
from db.session import Sessions, write
from tests.db import scenario
from tests.workers import runs
from tests.workers.node.doorbell.conftest import Segmenter, Touchy, answer, fail
from workers.node.breaker import Breaker
from workers.node.tasks import segment_chunk

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_broken_cuda_context_ends_the_process_and_counts_as_a_crash_of_the_chunk_if_the_gpu_worked_before(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker, ended: list[int]
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4), chunk_size=2)
    first, second = runs.ring(sessions, run_id)
    answer(runs.message(first))
    segmenter.before[2] = lambda: fail("CUDA error: device-side assert")
    with pytest.raises(SystemExit):
        segment_chunk(runs.message(second))
    assert ended == [1]
    assert breaker.suspicious
    [held] = scenario.running(sessions)
    assert write(sessions, claims.take_back, held, crashed=True)  # not given back: the reconciler finds it
    chunk = scenario.chunk(sessions, second.chunk_id)
    assert (chunk.state, chunk.crashes, chunk.releases) == ("pending", 1, 0)


def test_a_gpu_that_says_itself_that_it_is_broken_costs_its_chunk_nothing_whatever_it_did_before(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, ended: list[int], breaker: Breaker
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)
    segmenter.before[2] = lambda: fail("CUDA error: uncorrectable ECC error encountered")
    with pytest.raises(SystemExit):
        segment_chunk(runs.message(rung))
    assert ended == [1]
    assert breaker.suspicious
    assert scenario.states(sessions, run_id) == ["done", "done", "pending", "pending"]
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts, chunk.crashes, chunk.releases) == ("pending", 0, 0, 1)
    assert chunk.error == "CUDA error: uncorrectable ECC error encountered"


def test_a_gpu_that_has_done_nothing_yet_is_the_suspect_and_not_the_chunk(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker, ended: list[int]
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    segmenter.before[1] = lambda: fail("CUDA error: device-side assert")
    with pytest.raises(SystemExit):
        segment_chunk(runs.message(rung))
    assert ended == [1]
    assert breaker.suspicious
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.attempts, chunk.crashes, chunk.releases) == (0, 0, 1)


@pytest.mark.parametrize("works", [False, True])
def test_a_model_that_fails_at_its_self_test_too_ends_the_process_and_fails_no_image(
    serve_tested: Callable[[Segmenter], None],
    sessions: Sessions,
    tmp_path: Path,
    ended: list[int],
    *,
    works: bool,
) -> None:
    touchy = Touchy()
    serve_tested(touchy)
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)
    touchy.before[3 if works else 2] = lambda: setattr(touchy, "broken", True)
    with pytest.raises(SystemExit):
        segment_chunk(runs.message(rung))
    assert ended == [1]
    assert scenario.states(sessions, run_id) == ["done" if works else "pending"] * 2 + ["pending"] * 2
    # A model that has worked may have been broken by one of the images: that death counts. Else the chunk goes back.
    assert scenario.chunk(sessions, rung.chunk_id).releases == (0 if works else 1)
