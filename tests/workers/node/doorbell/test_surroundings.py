"""Faults of the surroundings cost the chunk no attempt; the breaker counts them, and some end the process."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from db.intake import NewRow
from db.session import Sessions
from tests.db import scenario
from tests.workers import runs
from tests.workers.node.doorbell.conftest import Segmenter, answer, fail
from workers.inference.protocol import Options, OutOfMemory, Pixels
from workers.node.breaker import Breaker
from workers.node.node import Node
from workers.node.tasks import segment_chunk

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_fault_of_the_surroundings_gives_the_attempt_back(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)
    segmenter.before[2] = disk_full
    with pytest.raises(OSError, match="No space left"):
        segment_chunk(runs.message(rung))
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.attempts, chunk.crashes, chunk.releases) == (0, 0, 1)
    assert scenario.states(sessions, run_id) == ["done", "done", "pending", "pending"]
    assert not breaker.open


def test_three_faults_in_a_row_end_the_node_which_takes_nothing_more(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    segmenter.before[1] = disk_full
    [rung] = runs.ring(sessions, run_id)
    for _ in range(3):
        assert not breaker.open
        with pytest.raises(OSError, match="No space left"):
            segment_chunk(runs.message(rung))
    assert breaker.open
    assert "this node stops, nothing it tries succeeds; last: [Errno 28] No space left on device" in caplog.text
    assert answer(runs.message(rung)) == {"skipped": "this node stops"}
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts, chunk.releases) == ("queued", 0, 3)


def test_a_commit_between_faults_shows_that_the_node_is_well(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 10), chunk_size=10)
    [rung] = runs.ring(sessions, run_id)
    for commits_first in (False, False, True, False, True, False):
        segmenter.forwards.clear()
        segmenter.before = {2 if commits_first else 1: disk_full}
        with pytest.raises(OSError, match="No space left"):
            segment_chunk(runs.message(rung))
    assert not breaker.open


def test_a_model_that_cannot_be_loaded_is_a_fault_and_costs_no_attempt(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: str, settings: object, *, everything: bool) -> Segmenter:
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setattr("workers.node.model.make_segmenter", broken)
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    for _ in range(3):
        [rung] = runs.ring(sessions, run_id)
        assert "CUDA error" in answer(runs.message(rung))["declined"]
    assert breaker.open
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts, chunk.fence) == ("pending", 0, 0)


def test_while_another_run_can_be_served_only_a_first_refusal_counts_and_the_refused_chunk_rests(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: fail("damaged"))
    monkeypatch.setattr(Node, "fault", lambda node, reason: breaker.fault(reason))  # without its pause
    monkeypatch.setenv("SAM3_FAULT_PAUSE_SECONDS", "10")
    bad = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4), "bad", chunk_size=1)
    runs.load(sessions, tmp_path, runs.pictures(tmp_path, 1), "good", model="good")
    for rung in runs.ring(sessions, bad):
        assert "damaged" in answer(runs.message(rung))["declined"]
        assert scenario.rests_for(sessions, rung.chunk_id) in (59, 60)
    assert breaker.suspicious
    assert not breaker.open


def test_images_that_cannot_be_read_do_not_show_that_the_gpu_works(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, breaker: Breaker
) -> None:
    run_id = runs.load(sessions, tmp_path, [NewRow("here.png"), NewRow("there.png")], chunk_size=1)
    first, second = runs.ring(sessions, run_id)
    assert answer(runs.message(first))["failed"] == 1
    assert not Node.this().gpu_works
    breaker.fault("CUDA error")
    assert answer(runs.message(second))["failed"] == 1
    assert breaker.suspicious


class OnASharedGpu(Segmenter):
    """Fits as long as no other process has taken the GPU's memory."""

    taken = False

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        raw = super().predict(batch, prompts, options)
        if self.taken:
            raise OutOfMemory
        return raw


def test_memory_that_another_process_takes_fails_no_image_and_costs_no_attempt(
    serve_tested: Callable[[Segmenter], None], sessions: Sessions, tmp_path: Path, breaker: Breaker
) -> None:
    shared = OnASharedGpu()
    serve_tested(shared)
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)
    shared.before[3] = lambda: setattr(shared, "taken", True)  # the second batch; the self-test is the first pass
    with pytest.raises(OutOfMemory, match="is another process on this GPU"):
        segment_chunk(runs.message(rung))
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.attempts, chunk.crashes, chunk.releases) == (0, 0, 1)
    assert "is another process on this GPU" in (chunk.error or "")
    assert scenario.states(sessions, run_id) == ["done", "done", "pending", "pending"]
    assert breaker.suspicious

    shared.before.clear()
    shared.taken = False
    assert answer(runs.message(rung))["images"] == 2
    assert scenario.run(sessions, run_id).state == "done"
