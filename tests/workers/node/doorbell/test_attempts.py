"""How a chunk is worked on: its threads, its prompts, its seconds, and one batch at a time after a crash."""

import random
import socket
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from db.intake import NewRow
from db.session import Sessions, read
from db.values import NOTHING_SPENT, Spent
from db.views import status
from db.views.cost import Cost, cost_of
from db.views.run_views import run_view
from tests.db import scenario
from tests.fakes import Clock
from tests.terminals import wait_until
from tests.workers import runs
from tests.workers.node.doorbell.conftest import Segmenter, answer, real_self_test
from workers.inference.protocol import Options, Pixels
from workers.inference.reading.images import ReadImage, ReadRules, read_image
from workers.inference.stages import Report
from workers.inference.stream.pipeline import Pace
from workers.node.chunk import ChunkInHand

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_the_seconds_of_a_chunk_are_those_that_pass_from_its_claim_to_its_last_commit(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves only in a forward pass, by 4 s, and in a commit, by 1 s."""
    clock = Clock()
    monkeypatch.setattr("workers.inference.stages.time", clock)
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 6), chunk_size=6)
    [rung] = runs.ring(sessions, run_id)
    segmenter.before = dict.fromkeys((1, 2, 3), partial(clock.move, 4.0))
    commit = ChunkInHand.commit

    def slowly(self: ChunkInHand, outcomes: Sequence[Any], spent: Spent = NOTHING_SPENT) -> bool:
        clock.move(1.0)
        return commit(self, outcomes, spent)

    monkeypatch.setattr(ChunkInHand, "commit", slowly)
    assert answer(runs.message(rung))["segmented"] == 6

    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert clock.perf_counter() == 3 * 4.0 + 3 * 1.0
    last_commit = 1.0  # is not over when it writes the seconds
    assert chunk.commit_seconds + chunk.waiting_seconds == pytest.approx(clock.perf_counter() - last_commit, rel=0.05)
    assert chunk.forward_seconds >= 3 * 4.0  # a commit may move the clock meanwhile
    assert chunk.node == f"cpu0@{socket.gethostname()}"
    run = read(sessions, run_view, run_id)
    assert run is not None
    assert run.versions is not None
    assert set(run.versions) == {"sam3-queue", "torch", "transformers"}


def test_the_cost_that_is_projected_after_a_twentieth_is_within_15_percent_of_the_end(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device whose clock moves in its forward passes only: 20 s to get warm, then 2 s an image, more or less."""
    clock, dice = Clock(), random.Random(1)
    monkeypatch.setattr("workers.inference.stages.time", clock)
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 120), chunk_size=2)
    for number in range(1, 61):
        seconds = 2 * 2 * dice.uniform(0.8, 1.2) + (20 if number == 1 else 0)
        segmenter.before[number] = partial(clock.move, seconds)

    def cost() -> Cost:
        return read(sessions, lambda session: cost_of(session, run_id, status.progress(session, run_id)))

    for number, rung in enumerate(runs.ring(sessions, run_id), start=1):
        answer(runs.message(rung))
        if number == 3:
            after = cost()
    assert after.left is not None
    assert after.spent + after.left == pytest.approx(cost().spent, rel=0.15)
    assert cost().spent == pytest.approx(clock.perf_counter(), rel=0.05)


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (6, 6), (64, 8)])
def test_threads_follow_the_cores_of_the_node_unless_they_are_set(
    segmenter: Segmenter,
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    threads: int,
) -> None:
    paces: list[Pace] = []

    def pace(**how: Any) -> Pace:
        paces.append(Pace(**how))
        return paces[-1]

    monkeypatch.setenv("SAM3_CORES", str(cores))
    monkeypatch.delenv("SAM3_DECODE_THREADS")
    monkeypatch.setattr("workers.node.attempt.Pace", pace)
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    answer(runs.message(rung))
    assert [one.threads for one in paces] == [threads]


def test_after_a_crash_a_chunk_goes_one_batch_at_a_time_each_written_down_before_its_first_file_is_opened(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 5), chunk_size=5)
    scenario.take_back(sessions, scenario.claim(sessions, run_id))
    [rung] = runs.ring(sessions, run_id)
    seen: list[tuple[str, tuple[int | None, int | None], list[str]]] = []

    def look(path: str, rules: ReadRules, report: Report) -> ReadImage:
        chunk = scenario.chunk(sessions, rung.chunk_id)
        states = scenario.states(sessions, run_id)
        seen.append((Path(path).stem, (chunk.inflight_first, chunk.inflight_last), states))
        return read_image(path, rules, report)

    monkeypatch.setattr("workers.inference.stream.pieces.read_image", look)
    assert answer(runs.message(rung))["segmented"] == 5
    done, pending = ["done"], ["pending"]
    assert seen == [
        ("0000", (1, 2), pending * 5),
        ("0001", (1, 2), pending * 5),
        ("0002", (3, 4), done * 2 + pending * 3),
        ("0003", (3, 4), done * 2 + pending * 3),
        ("0004", (5, 5), done * 4 + pending),
    ]
    assert segmenter.forwards == [2, 2, 1]
    assert scenario.chunk(sessions, rung.chunk_id).inflight_first is None


class Seen(Segmenter):
    """Notes the threads that run its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[threading.Thread] = []

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        self.threads.append(threading.current_thread())
        return super().predict(batch, prompts, options)


def test_one_thread_runs_the_self_test_and_all_chunks_of_a_model_and_ends_with_it(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"one": Seen(), "other": Seen()}
    monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: seen[model])
    monkeypatch.setattr("workers.inference.selftest.check", real_self_test)
    for number, model in enumerate(seen):
        run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 6), f"run{number}", chunk_size=2, model=model)
        for rung in runs.ring(sessions, run_id):
            assert answer(runs.message(rung))["images"] == 2
    for one in seen.values():
        assert len(one.threads) == 1 + 3
        assert len(set(one.threads)) == 1
    first, second = (one.threads[0] for one in seen.values())
    assert first is not second
    wait_until(lambda: not first.is_alive(), "the end of the first model's thread")
    assert second.is_alive()


def test_an_image_is_asked_for_its_own_prompts(segmenter: Segmenter, sessions: Sessions, tmp_path: Path) -> None:
    first, second = runs.pictures(tmp_path, 2)
    run_id = runs.load(sessions, tmp_path, [NewRow(first.path, prompts=("dog", "cat", "car")), second])
    [rung] = runs.ring(sessions, run_id)
    assert answer(runs.message(rung))["instances"] == 4
    assert runs.results(sessions) == 4
