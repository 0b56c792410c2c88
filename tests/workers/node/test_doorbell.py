"""The task, called as Celery calls it: what it does with a doorbell, good, late, doubled or bad."""

import errno
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import celery._state
import pytest
import redis
from celery import Celery

from db import claims, corrections, doorbells, steering
from db.intake import NewRow
from db.outcomes import ImageFailed, Outcome
from db.runs import cancel_run
from db.session import Sessions, read, write
from db.values import NOTHING_SPENT, Spent
from db.views import status
from db.views.cost import Cost, cost_of
from db.views.run_views import RunView, prompt_texts, run_view
from producer.runs.load import auto_chunk_size
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.terminals import wait_until
from tests.workers import runs
from workers.broker.connection import Doorbells
from workers.inference import selftest
from workers.inference.protocol import Options, OutOfMemory, Pixels
from workers.inference.reading.images import RGB, ReadImage, ReadRules, read_image
from workers.inference.stages import Report
from workers.inference.stream.pipeline import Pace
from workers.node.breaker import Breaker
from workers.node.chunk import ChunkInHand
from workers.node.faults import Infrastructure
from workers.node.model import Model
from workers.node.mount import check_mount
from workers.node.node import Node
from workers.node.tasks import segment_chunk

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Work = Callable[[], None]
real_self_test = selftest.check


class Segmenter(FakeSegmenter):
    """Does something of the test's before each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, Work] = {}  # by the number of the forward pass, from 1

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        self.before.get(len(self.forwards) + 1, lambda: None)()
        return super().predict(batch, prompts, options)


@pytest.fixture
def app(broker_url: str, database_url: str, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The current application of this process, as in a node; batches are of two images."""
    for name in [name for name in os.environ if name.startswith("SAM3_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "BROKER_URL": broker_url,
        "DATABASE_URL": database_url,
        "BATCH_SIZE": "2",
        "DECODE_THREADS": "1",
        "SEGMENTER": "tests.fakes:FakeSegmenter",  # the one below, in truth
        "LEASE_SECONDS": "3000",
        "HEARTBEAT_SECONDS": "1000",
        "FAULT_PAUSE_SECONDS": "0",
        "NODE": "cpu0",
    }.items():
        monkeypatch.setenv(f"SAM3_{name}", value)
    app = runs.app(sessions, broker_url)
    app.set_current()
    yield app
    celery._state._set_current_app(None)  # type: ignore[attr-defined]


@pytest.fixture
def segmenter(app: Celery, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """The model that this process's worker loads."""
    segmenter = Segmenter()
    monkeypatch.setattr(Node, "_this", None)
    monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: segmenter)
    monkeypatch.setattr(
        "workers.inference.selftest.check", lambda segmenter, passes=1, compiled=False: None
    )  # its forward pass is told elsewhere
    return segmenter


@pytest.fixture
def serve_tested(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Callable[[Segmenter], None]:
    """Lets the worker load this model instead, and test it as it does elsewhere."""

    def serve(other: Segmenter) -> None:
        monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: other)
        monkeypatch.setattr("workers.inference.selftest.check", real_self_test)

    return serve


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """A process that has answered a doorbell keeps a handler of a node's."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def breaker(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """A breaker that tells nobody: the parent of this process is not a node."""
    breaker = Breaker(0, tell=lambda number: None)
    monkeypatch.setattr("workers.node.node.Breaker", lambda faults, tell: breaker)
    return breaker


def answer(message: Any) -> dict[str, Any]:
    done = segment_chunk(message)
    assert isinstance(done, dict)
    return done


@pytest.mark.parametrize("message", [None, "canary", {"v": 99}, {"v": 1, "run": "canary", "chunk": 1, "ring": 1}])
def test_a_bad_message_is_dropped_and_its_content_is_not_logged(
    segmenter: Segmenter, caplog: pytest.LogCaptureFixture, message: Any
) -> None:
    assert list(answer(message)) == ["dropped"]
    assert "dropped a doorbell" in caplog.text
    assert "canary" not in caplog.text


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


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0.0

    def move(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds

    def perf_counter(self) -> float:
        with self._lock:
            return self._now


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


def test_a_doorbell_of_an_unknown_run_or_chunk_does_nothing(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    assert answer(runs.message(replace(rung, run_id=run_id + 1))) == {"skipped": "no such run"}
    assert answer(runs.message(replace(rung, chunk_id=999))) == {"skipped": "not to be claimed"}
    assert scenario.states(sessions, run_id) == ["pending", "pending"]


def test_an_answered_doorbell_segments_its_chunk_and_tells_flower_in_a_small_summary(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    rows = [*runs.pictures(tmp_path, 3), NewRow("nowhere.png")]
    run_id = runs.load(sessions, tmp_path, rows)
    [rung] = runs.ring(sessions, run_id)
    told = answer(runs.message(rung))
    assert told.pop("seconds") >= 0
    assert told == {
        "run": "faces",
        "chunk": 1,
        "images": 4,
        "segmented": 3,
        "empty": 0,
        "failed": 1,
        "instances": 3,
    }
    assert scenario.states(sessions, run_id) == ["done", "done", "done", "failed"]
    assert segmenter.forwards == [2, 1]
    assert scenario.run(sessions, run_id).state == "done"


def test_a_doorbell_of_a_paused_run_hands_its_chunk_back(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    write(sessions, steering.pause, run_id, steering.BY_HAND)
    assert answer(runs.message(rung)) == {"skipped": "run is paused: by sam3-pause"}
    assert [chunk.state for chunk in scenario.chunks(sessions, run_id)] == ["pending"]
    write(sessions, steering.resume, run_id)
    [again] = runs.ring(sessions, run_id)
    assert answer(runs.message(again))["segmented"] == 2


def test_a_run_that_is_paused_meanwhile_ends_after_the_batches_in_hand_and_goes_on_from_there(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 40), chunk_size=40)
    [rung] = runs.ring(sessions, run_id)

    def pause() -> None:
        assert write(sessions, steering.pause, run_id, steering.BY_HAND)

    segmenter.before[1] = pause
    told = answer(runs.message(rung))
    in_hand = (4 + 3) * 2  # a batch in each stage, and one between two stages; of two images
    assert 0 < told["images"] <= in_hand
    assert told["released"] == 40 - told["images"]
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts, chunk.error) == ("pending", 0, None)
    write(sessions, steering.resume, run_id)
    [again] = runs.ring(sessions, run_id)
    assert answer(runs.message(again))["images"] == told["released"]
    assert runs.results(sessions) == 40


def test_ten_thousand_missing_files_stop_within_two_chunks(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = [NewRow(f"{number:05}.jpg") for number in range(10_000)]
    run_id = runs.load(sessions, tmp_path, missing, chunk_size=auto_chunk_size(len(missing), 1))
    write(sessions, partial(steering.steer, stop_after=["5% failed of 500"]), run_id)
    bells = runs.ring(sessions, run_id, 2)
    size = bells[0].images
    told = [answer(runs.message(rung)) for rung in bells]
    assert told[0]["failed"] == size
    assert told[1] == {
        "skipped": f"run is paused: as {size} of the latest {size} images failed (--stop-after '5% failed of 500')"
    }
    assert "run faces is paused as" in caplog.text
    states = scenario.states(sessions, run_id)
    assert (states.count("failed"), states.count("pending")) == (size, 10_000 - size)
    assert not segmenter.forwards


def test_a_doorbell_hands_its_chunk_back_while_a_run_of_higher_priority_waits(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    low = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2), "low")
    high = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2), "high")
    write(sessions, partial(steering.steer, priority=1), high)
    [first], [second] = runs.ring(sessions, low), runs.ring(sessions, high)
    assert answer(runs.message(first)) == {"skipped": "a run of higher priority waits"}
    assert answer(runs.message(second))["segmented"] == 2
    [chunk] = scenario.chunks(sessions, low)
    assert (chunk.state, chunk.ring) == ("queued", 2)  # rung when the other one ended
    assert answer(runs.message(first))["segmented"] == 2


def test_a_doorbell_that_comes_twice_is_answered_once(segmenter: Segmenter, sessions: Sessions, tmp_path: Path) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4), chunk_size=2)
    first, second = runs.ring(sessions, run_id)
    answer(runs.message(first))
    assert answer(runs.message(first)) == {"skipped": "not to be claimed"}
    answer(runs.message(second))
    assert answer(runs.message(second)) == {"skipped": "run is done"}
    assert segmenter.forwards == [2, 2]
    assert runs.results(sessions) == 4


def test_a_doorbell_of_a_chunk_that_somebody_works_on_does_nothing(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    held = write(sessions, claims.claim, run_id, rung.chunk_id, scenario.worker(sessions))
    assert held is not None
    assert answer(runs.message(rung)) == {"skipped": "not to be claimed"}
    assert scenario.commit_all(sessions, held, 0.9)


def test_an_old_doorbell_of_a_chunk_that_waits_again_is_as_good_as_a_new_one(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [old] = runs.ring(sessions, run_id)
    [new] = write(sessions, doorbells.ring_again, old.chunk_id, old.ring)
    assert answer(runs.message(old))["segmented"] == 2
    assert answer(runs.message(new)) == {"skipped": "run is done"}


def test_a_doorbell_of_a_finished_run_does_not_load_its_model(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    answer(runs.message(rung))
    monkeypatch.setattr(Model, "segmenter_for", lambda *_: pytest.fail("the model was loaded"))
    assert answer(runs.message(rung)) == {"skipped": "run is done"}


def test_a_declined_run_leaves_its_chunk_queued_and_costs_no_attempt(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    write(sessions, claims.agree_on_model, run_id, claims.ModelUsed(None, "f" * 64, "bf16"))
    assert list(answer(runs.message(rung))) == ["declined"]
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts, segmenter.forwards) == ("queued", 0, [])


def test_a_declined_run_is_rung_again_for_the_workers_that_serve_it(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, app: Celery
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    write(sessions, claims.agree_on_model, run_id, claims.ModelUsed(None, "f" * 64, "bf16"))
    answer(runs.message(rung))
    assert scenario.chunk(sessions, rung.chunk_id).ring == rung.ring + 1
    assert Doorbells(app).chunks() == {rung.chunk_id}


def test_a_declined_run_of_a_higher_priority_keeps_no_other_waiting(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    low = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2), "low")
    high = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 12), "high", chunk_size=2)
    write(sessions, partial(steering.steer, priority=1), high)
    write(sessions, claims.agree_on_model, high, claims.ModelUsed(None, "f" * 64, "bf16"))
    [rung, _] = runs.ring(sessions, high, 2)
    answer(runs.message(rung))
    [chunk] = scenario.chunks(sessions, low)
    assert chunk.state == "queued"
    called = write(sessions, doorbells.rung_chunks, [chunk.id])
    assert answer(runs.message(called[0]))["segmented"] == 2  # although doorbells of the other run wait


@pytest.mark.parametrize("moment", ["while its model is loaded", "while it is computed"])
def test_a_run_that_is_corrected_meanwhile_gets_nothing_of_its_old_settings(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)
    old = read(sessions, run_view, run_id)
    assert old is not None

    def correct() -> None:
        write(sessions, corrections.correct, run_id, old.uid, scenario.FROZEN, ("dog",))

    really = Model.segmenter_for

    def loaded(model: Model, run: RunView) -> Any:
        segmenter = really(model, run)
        correct()
        return segmenter

    if moment == "while it is computed":
        segmenter.before[1] = correct
    else:
        monkeypatch.setattr(Model, "segmenter_for", loaded)
    assert answer(runs.message(rung)) in ({"lost": 1}, {"skipped": "not to be claimed"})
    assert scenario.states(sessions, run_id) == ["pending", "pending"]
    assert runs.results(sessions) == 0

    monkeypatch.setattr(Model, "segmenter_for", really)
    segmenter.before.clear()
    runs.ring(sessions, run_id)  # if that was not done yet
    [again] = read(sessions, doorbells.rung_chunks, [rung.chunk_id])
    answer(runs.message(again))
    new = read(sessions, run_view, run_id)
    assert new is not None
    assert (new.frozen.model, list(new.prompts.values()), new.state) == ("tiny", ["dog"], "done")


def fail(message: str) -> None:
    raise RuntimeError(message)


class Bug:
    """An error of our own code in an attempt, which no image and no model has to do with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, message: str, batch: int) -> None:
        self.batches = iter(range(1, 1000))
        self.mend = partial(monkeypatch.setattr, "workers.node.attempt.check_mount", check_mount)

        def raises(*_: Any) -> None:
            if next(self.batches) >= batch:
                fail(message)

        monkeypatch.setattr("workers.node.attempt.check_mount", raises)


def test_an_unexpected_error_keeps_what_is_committed_and_lets_the_rest_wait(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)
    bug = Bug(monkeypatch, "a bug of ours", batch=2)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        segment_chunk(runs.message(rung))
    assert scenario.states(sessions, run_id) == ["done", "done", "pending", "pending"]
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.error) == ("pending", "RuntimeError: a bug of ours")
    assert scenario.rests_for(sessions, rung.chunk_id) in (4, 5)
    assert runs.ring(sessions, run_id) == []

    bug.mend()
    scenario.rest_is_over(sessions, rung.chunk_id)
    [again] = runs.ring(sessions, run_id)
    assert answer(runs.message(again))["images"] == 2
    assert scenario.run(sessions, run_id).state == "done"


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


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows when the process ends, here by an exception instead."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", lambda code: exit_with(ended, code))
    monkeypatch.setattr("workers.node.life.logging.shutdown", lambda: None)
    return ended


def exit_with(ended: list[int], code: int) -> None:
    ended.append(code)
    raise SystemExit(code)


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


def test_a_lost_mount_fails_no_image_and_a_deleted_file_only_itself(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    names = [f"mount/{row.path}" for row in runs.pictures(mount, 6)]
    run_id = runs.load(sessions, tmp_path, [NewRow(name) for name in names], chunk_size=2)
    first, second, third = runs.ring(sessions, run_id)
    answer(runs.message(first))

    mount.rename(tmp_path / "away")
    with pytest.raises(Infrastructure, match=r"was read before and is gone .* is a mount lost\?"):
        segment_chunk(runs.message(second))
    assert scenario.states(sessions, run_id) == ["done"] * 2 + ["pending"] * 4

    (tmp_path / "away").rename(mount)
    for name in names[4:]:
        (tmp_path / name).unlink()
    answer(runs.message(third))
    assert scenario.states(sessions, run_id) == ["done"] * 2 + ["pending"] * 2 + ["failed"] * 2


def test_whoever_deletes_the_images_that_are_done_loses_no_mount(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    names = [row.path for row in runs.pictures(tmp_path, 6)]
    run_id = runs.load(sessions, tmp_path, [NewRow(name) for name in names], chunk_size=2)
    first, second, _ = runs.ring(sessions, run_id)
    answer(runs.message(first))
    for name in names[:4]:
        (tmp_path / name).unlink()
    answer(runs.message(second))
    assert scenario.states(sessions, run_id) == ["done"] * 2 + ["failed"] * 2 + ["pending"] * 2


def test_a_mount_that_hangs_is_lost_too_and_does_not_hang_the_worker(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: opening the file that was read before never comes back."""
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2), chunk_size=2)
    [first] = runs.ring(sessions, run_id)
    answer(runs.message(first))
    released = threading.Event()
    monkeypatch.setattr("workers.node.mount._lost", lambda *_: released.wait())
    run, late = read(sessions, run_view, run_id), [ImageFailed(3, "timeout", "took too long")]
    assert run is not None
    with pytest.raises(Infrastructure, match=r"was read before and no longer answers: does a mount hang\?"):
        check_mount(sessions, run, (), late, seconds=0.2)
    released.set()


def test_a_mount_that_is_back_when_its_loss_is_noticed_was_lost_too(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4), chunk_size=2)
    first, second = runs.ring(sessions, run_id)
    answer(runs.message(first))
    run, claim = read(sessions, run_view, run_id), write(sessions, claims.claim, run_id, second.chunk_id, 1)
    assert run is not None
    assert claim is not None
    batch = [ImageFailed(image.id, "missing", "cannot be opened") for image in claim.images]
    with pytest.raises(Infrastructure, match=r"was missing and is there again: was a mount lost\?"):
        check_mount(sessions, run, claim.images, batch, seconds=10)
    write(sessions, claims.release, claim)


@pytest.mark.parametrize("moved", ["folder", "run"])
def test_images_that_are_moved_while_a_batch_is_read_are_not_missing(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, moved: str
) -> None:
    """The first two were read, then the folder was renamed, or the run was told that its images are elsewhere."""
    photos = tmp_path / "photos"
    run_id = runs.load(sessions, photos, runs.pictures(photos, 4), chunk_size=4)
    [rung] = runs.ring(sessions, run_id)
    run, claim = read(sessions, run_view, run_id), write(sessions, claims.claim, run_id, rung.chunk_id, 1)
    assert run is not None
    assert claim is not None
    batch: list[Outcome] = [scenario.done(image, 0.9) for image in claim.images[:2]]
    batch += [ImageFailed(image.id, "missing", "cannot be opened") for image in claim.images[2:]]
    for image in claim.images[2:]:
        (photos / image.path).unlink()
    check_mount(sessions, run, claim.images, batch, seconds=10)  # files that are simply missing
    if moved == "folder":
        photos.rename(tmp_path / "elsewhere")
    else:
        write(sessions, corrections.move, run_id, "faces.csv", str(tmp_path / "elsewhere"))
    with pytest.raises(Infrastructure, match=r"is a mount lost|were moved to"):
        check_mount(sessions, run, claim.images, batch, seconds=10)
    write(sessions, claims.release, claim)


def test_the_fifth_unexpected_error_without_progress_fails_the_images(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    Bug(monkeypatch, "always", batch=1)
    for _ in range(claims.MAX_ATTEMPTS):
        for rung in runs.ring(sessions, run_id):
            with pytest.raises(RuntimeError, match="always"):
                segment_chunk(runs.message(rung))
        scenario.rest_is_over(sessions, rung.chunk_id)
    assert {(image.state, image.error_class) for image in scenario.images(sessions, run_id)} == {("failed", "internal")}
    assert scenario.run(sessions, run_id).state == "done"


class Touchy(Segmenter):
    """Raises for an image of this width, and for everything, its self-test included, once it is `broken`."""

    def __init__(self, width: int = 0) -> None:
        super().__init__()
        self.width, self.broken = width, False

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        raw = super().predict(batch, prompts, options)
        if self.broken or self.width in [pixels.width for pixels in batch]:
            raise ValueError("an odd\nwidth")
        return raw


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_image_that_makes_the_model_raise_costs_no_attempt_and_nobody_else(
    segmenter: Segmenter,
    sessions: Sessions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    count: int,
) -> None:
    monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: Touchy(width=40))
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, count), chunk_size=5)
    [rung] = runs.ring(sessions, run_id)
    told = answer(runs.message(rung))
    assert (told["failed"], told["segmented"]) == (1, count - 1)
    first, *rest = scenario.images(sessions, run_id)
    assert (first.error_class, first.error) == (
        "internal",
        "the model raises for it, even alone: ValueError: an odd width",
    )
    assert {image.state for image in rest} <= {"done"}
    assert scenario.chunk(sessions, rung.chunk_id).fence == 1
    [shown] = [record for record in caplog.records if record.exc_info]
    assert "an odd" in str(shown.exc_info)


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


def test_an_image_whose_values_the_database_refuses_fails_alone(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeSegmenter._found

    def no_edge(self: FakeSegmenter, image: RGB, options: Options) -> Any:
        found = real(self, image, options)
        nothing: Any = (None, 0.0, 1.0, 1.0)
        return found if image.shape[1] != 42 else replace(found, instances=(replace(found.instances[0], box=nothing),))

    monkeypatch.setattr(FakeSegmenter, "_found", no_edge)
    # Nothing is found wrong with an outcome, so that the database sees it.
    monkeypatch.setattr("workers.inference.stream.pipeline.fault", lambda *_: None)
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4), chunk_size=4)
    [rung] = runs.ring(sessions, run_id)
    answer(runs.message(rung))
    images = scenario.images(sessions, run_id)
    assert [image.state for image in images] == ["done", "done", "failed", "done"]
    assert (images[2].error_class, images[2].error) == (
        "internal",
        "the database refuses its result: NOT NULL constraint failed: instance.x1",
    )
    assert scenario.chunk(sessions, rung.chunk_id).fence == 1


def test_a_lost_lease_stops_the_work_quietly_and_commits_nothing_more(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)

    def take_away() -> None:
        [held] = scenario.running(sessions)
        assert write(sessions, claims.take_back, held, crashed=False)

    segmenter.before[2] = take_away
    assert answer(runs.message(rung)) == {"lost": 1}
    assert "chunk 1 of faces is no longer ours" in caplog.text
    done = scenario.states(sessions, run_id).count("done")
    assert done in (0, 2)  # the first batch may or may not have been committed before
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert chunk.error is None
    answer(runs.message(replace(rung, ring=chunk.ring)))
    assert runs.results(sessions) == 4


def test_a_run_that_is_cancelled_meanwhile_stops_the_work_quietly(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)
    segmenter.before[2] = lambda: assert_true(write(sessions, cancel_run, run_id))
    assert answer(runs.message(rung)) == {"lost": 1}
    assert scenario.states(sessions, run_id).count("pending") >= 2


def assert_true(value: bool) -> None:
    assert value


def gone_before(work: Callable[..., Any], sessions: Sessions) -> Callable[..., Any]:
    """`work`, with the run deleted at its very beginning."""

    def then(*given: Any) -> Any:
        scenario.delete(sessions, 1)
        return work(*given)

    return then


really_claim = ChunkInHand.claim


def claimed_without_images(chunk: ChunkInHand) -> bool:
    """Databases may show what a delete has taken away between two statements of the claim."""
    claimed = really_claim(chunk)
    scenario.begin_delete(chunk._worker.sessions, chunk.run.id)
    chunk._claim = replace(chunk._held, images=())
    return claimed


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("its model is loaded", ""),
        ("its prompts are read", "chunk 1 of faces is no longer ours: its run was deleted"),
        ("a batch is computed", "chunk 1 of faces is no longer ours: its run was deleted"),
        ("its images are read", "chunk 1 of faces is no longer ours: its run is being deleted"),
    ],
)
def test_a_run_that_is_deleted_at_any_moment_ends_the_work_in_words(
    segmenter: Segmenter,
    sessions: Sessions,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    moment: str,
    told: str,
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4))
    [rung] = runs.ring(sessions, run_id)
    with pytest.MonkeyPatch.context() as patch:
        match moment:
            case "its model is loaded":
                patch.setattr(Model, "_load", gone_before(Model._load, sessions))
            case "its prompts are read":
                patch.setattr("workers.node.attempt.prompt_texts", gone_before(prompt_texts, sessions))
            case "a batch is computed":
                segmenter.before[2] = lambda: assert_true(scenario.delete(sessions, run_id) == 4)
            case _:
                patch.setattr(ChunkInHand, "claim", claimed_without_images)
        answered = answer(runs.message(rung))
    assert answered == ({"lost": 1} if told else {"skipped": "not to be claimed"})
    assert [record.message for record in caplog.records if record.name == "workers.node.doorbell"] == (
        [told] if told else []
    )
    scenario.delete(sessions, run_id)


def test_a_prompt_of_one_row_that_the_model_cannot_take_fails_only_that_image(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    good, bad, mixed, plain = runs.pictures(tmp_path, 4)
    long = "a " * 40 + "dog"
    rows = [
        NewRow(good.path, prompts=("red car",)),
        NewRow(bad.path, prompts=(long,)),
        NewRow(mixed.path, prompts=("red car", long)),
        plain,
    ]
    run_id = runs.load(sessions, tmp_path, rows)
    [rung] = runs.ring(sessions, run_id)
    assert answer(runs.message(rung))["failed"] == 2
    images = scenario.images(sessions, run_id)
    assert [image.state for image in images] == ["done", "failed", "failed", "done"]
    assert images[1].error_class == "prompt"
    assert "too many words" in str(images[1].error)


def test_an_image_is_asked_for_its_own_prompts(segmenter: Segmenter, sessions: Sessions, tmp_path: Path) -> None:
    first, second = runs.pictures(tmp_path, 2)
    run_id = runs.load(sessions, tmp_path, [NewRow(first.path, prompts=("dog", "cat", "car")), second])
    [rung] = runs.ring(sessions, run_id)
    assert answer(runs.message(rung))["instances"] == 4
    assert runs.results(sessions) == 4


def ask_to_stop() -> None:
    """SIGTERM, as the launcher sends it to the whole group."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_stop_while_the_model_loads_the_chunk_is_given_back_unclaimed(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: Celery
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2))
    [rung] = runs.ring(sessions, run_id)

    def load(model: str, settings: object, *, everything: bool) -> Segmenter:
        ask_to_stop()
        return segmenter

    monkeypatch.setattr("workers.node.model.make_segmenter", load)
    assert answer(runs.message(rung)) == {"skipped": "draining"}
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts, chunk.fence) == ("pending", 0, 0)
    assert Doorbells(app).count() == 0  # a worker that stops rings for nobody
    assert answer(runs.message(rung)) == {"skipped": "this node stops"}  # what came to it meanwhile


def test_asked_to_stop_at_work_the_batch_in_hand_is_committed_and_the_rest_given_back(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 60), chunk_size=60)
    [rung] = runs.ring(sessions, run_id)
    segmenter.before[2] = ask_to_stop
    told = answer(runs.message(rung))
    assert 2 <= told["images"] < 60
    assert told["images"] + told["released"] == 60
    assert scenario.states(sessions, run_id).count("done") == told["images"]
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts, chunk.releases) == ("pending", 0, 1)


def test_the_end_of_a_chunk_rings_the_next_ones(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, app: Celery
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 6), chunk_size=2)
    [first] = runs.ring(sessions, run_id, 1)
    answer(runs.message(first))
    assert [chunk.state for chunk in scenario.chunks(sessions, run_id)] == ["done", "queued", "queued"]
    assert Doorbells(app).chunks() == {chunk.id for chunk in scenario.chunks(sessions, run_id)[1:]}


def test_a_broker_that_is_away_at_the_end_of_a_chunk_takes_nothing_from_its_result(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, app: Celery
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4), chunk_size=2)
    [first] = runs.ring(sessions, run_id, 1)
    redis.Redis.from_url(app.conf.broker_url).config_set("maxmemory", 1)  # it refuses every write
    assert answer(runs.message(first))["segmented"] == 2
    assert [chunk.state for chunk in scenario.chunks(sessions, run_id)] == ["done", "queued"]
