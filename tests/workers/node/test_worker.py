"""One process as a worker: what it serves, what it declines and why, and what it reports."""

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from db.claims import Claim, LeaseLost, ModelUsed, agree_on_model
from db.models import Prompt, Run
from db.models import Worker as WorkerRow
from db.session import Sessions, reading, write
from db.views.status import RunView, WorkerLine, run_view, workers
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.terminals import wait_until
from tests.workers import runs
from workers.errors import Unreachable
from workers.fleet.processes import this_process
from workers.inference.answers import Found
from workers.inference.images import RGB
from workers.inference.pipeline import Options, OutOfMemory
from workers.node.worker import UNUSABLE_SECONDS, Declined, Worker, make_segmenter
from workers.settings import Settings

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Start = Callable[..., Worker]


@pytest.fixture
def start(sessions: Sessions, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a worker in this process; `segmenter` is what its model turns out to be, or fails with."""
    started: list[Worker] = []

    def begin(segmenter: FakeSegmenter | Exception | None = None, **settings: Any) -> Worker:
        def load(model: str, settings: Settings) -> FakeSegmenter:
            if isinstance(segmenter, Exception):
                raise segmenter
            return segmenter or FakeSegmenter(model)

        monkeypatch.setattr("workers.node.worker.make_segmenter", load)
        calm: dict[str, Any] = {
            "heartbeat_seconds": 1000,
            "lease_seconds": 3000,
            "node": "cpu0",
            "segmenter": "a:stand_in",
        }
        started.append(Worker(Settings(database_url=database_url, **(calm | settings))))
        return started[-1]

    yield begin
    for worker in started:
        worker._report = retire  # type: ignore[method-assign]


def retire(**_: object) -> None:
    threading.Event().wait()  # the heartbeat's thread ends with the tests


def view(sessions: Sessions, run_id: int) -> RunView:
    with reading(sessions) as session:
        found = run_view(session, run_id)
    assert found is not None
    return found


def reported(sessions: Sessions) -> WorkerLine:
    with reading(sessions) as session:
        [line] = workers(session)
    return line


def other_weights() -> FakeSegmenter:
    segmenter = FakeSegmenter()
    segmenter.facts = replace(segmenter.facts, weights_sha256="f" * 64)
    return segmenter


def test_a_worker_introduces_itself_by_slot_and_host(start: Start, sessions: Sessions) -> None:
    start(node="gpu3")
    line = reported(sessions)
    assert (line.node, line.state) == (f"gpu3@{this_process().host}", "idle")


def test_the_first_worker_freezes_its_model_into_the_run(start: Start, sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    start().segmenter_for(view(sessions, run_id))
    run = view(sessions, run_id)
    assert (run.weights_sha256, run.dtype) == ("0" * 64, "fp32")


@pytest.mark.parametrize("difference", ["weights", "dtype"])
def test_a_worker_with_another_model_declines_the_run_and_says_so_once(
    start: Start, sessions: Sessions, caplog: pytest.LogCaptureFixture, difference: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    start().segmenter_for(view(sessions, run_id))
    other = other_weights()
    if difference == "dtype":
        other.facts = replace(FakeSegmenter().facts, dtype="bf16")
    second = start(other, node="cpu1")
    for _ in range(2):
        with second.answering(view(sessions, run_id), rung.chunk_id), pytest.raises(Declined, match="it began with"):
            second.segmenter_for(view(sessions, run_id))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "run faces is not served by this worker" in caplog.text
    chunk = scenario.chunk(sessions, rung.chunk_id)
    assert (chunk.state, chunk.attempts) == ("queued", 0)
    with reading(sessions) as session:
        line = next(line for line in workers(session) if line.node.startswith("cpu1"))
    assert line.state == "declined"
    assert line.message is not None
    assert "it began with weights 000000000000 in fp32" in line.message


def test_a_model_that_cannot_be_loaded_declines_the_run(start: Start, sessions: Sessions) -> None:
    run = view(sessions, scenario.load(sessions, scenario.numbered(4)))
    with pytest.raises(Declined, match="no access to facebook/sam3"):
        start(Unreachable("no access to facebook/sam3: accept the licence")).segmenter_for(run)
    assert view(sessions, run.id).weights_sha256 is None


class Broken(FakeSegmenter):
    """Loads, but computes no numbers."""

    def _found(self, image: RGB, options: Options) -> Found:
        return Found(presence=math.nan, instances=())


def test_a_model_that_computes_nonsense_declines_the_run_before_anything_is_claimed(
    start: Start, sessions: Sessions
) -> None:
    run = view(sessions, scenario.load(sessions, scenario.numbered(4)))
    with pytest.raises(Declined) as declined:
        start(Broken()).segmenter_for(run)
    assert declined.value.fault
    assert view(sessions, run.id).weights_sha256 is None


class Large(FakeSegmenter):
    """Loads, but its forward pass does not fit."""

    def predict(self, *_: object) -> list[Any]:
        raise OutOfMemory


@pytest.mark.parametrize("broken", [Broken, Large])
def test_a_model_that_is_declined_leaves_the_gpu_at_once_and_each_refusal_is_as_short_as_the_first(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, broken: type[FakeSegmenter]
) -> None:
    run = view(sessions, scenario.load(sessions, scenario.numbered(4)))
    worker = start()
    made: list[weakref.ref[FakeSegmenter]] = []

    def load(model: str, settings: Settings) -> FakeSegmenter:
        segmenter = broken(model)
        made.append(weakref.ref(segmenter))
        return segmenter

    monkeypatch.setattr("workers.node.worker.make_segmenter", load)
    lengths = []
    for first in (True, False, False):
        with pytest.raises(Declined) as declined:
            worker.segmenter_for(run)
        assert (declined.value.fault, declined.value.tried) == (True, first)
        assert declined.value.__context__ is None
        lengths.append(len(declined.traceback))
        assert [one() for one in made] == [None]
    assert lengths == [2, 2, 2]


@pytest.mark.parametrize("error", [OutOfMemory(), MemoryError(), RuntimeError("CUDA out of memory. Tried to ...")])
def test_a_model_that_does_not_fit_is_told_in_one_line(
    start: Start, sessions: Sessions, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    run = view(sessions, scenario.load(sessions, scenario.numbered(4)))
    with pytest.raises(Declined) as declined:
        start(error).segmenter_for(run)
    assert str(declined.value) == f"{run.frozen.model} does not fit into memory; is another process on this GPU?"
    assert declined.value.fault
    assert not [record for record in caplog.records if record.exc_info]


def test_a_model_that_could_not_be_had_is_not_tried_again_for_another_run(start: Start, sessions: Sessions) -> None:
    first, second = (view(sessions, scenario.load(sessions, scenario.numbered(2), name=name)) for name in "ab")
    worker = start(Unreachable("no access"))
    with pytest.raises(Declined):
        worker.segmenter_for(first)
    assert worker.may_serve_another()
    with pytest.raises(Declined) as declined:
        worker.segmenter_for(second)
    assert not declined.value.tried
    assert not worker.may_serve_another()


def test_a_prompt_of_the_run_that_is_too_long_for_the_model_declines_it(start: Start, sessions: Sessions) -> None:
    prompt = "a " * 40 + "dog"
    run = view(sessions, scenario.load(sessions, scenario.numbered(4), prompts=(prompt,)))
    with pytest.raises(Declined, match="the same command with a shorter prompt corrects it"):
        start().segmenter_for(run)


def test_declining_one_run_is_no_reason_not_to_serve_the_next(start: Start, sessions: Sessions) -> None:
    long = view(sessions, scenario.load(sessions, scenario.numbered(4), name="long", prompts=("a " * 40,)))
    short = view(sessions, scenario.load(sessions, scenario.numbered(4), name="short"))
    worker = start()
    with worker.answering(long, 1), pytest.raises(Declined):
        worker.segmenter_for(long)
    with worker.answering(short, 2):
        worker.segmenter_for(short)
        assert reported(sessions).message is None
    assert reported(sessions).state == "idle"


def declined(worker: Worker, sessions: Sessions, run_id: int) -> None:
    run = view(sessions, run_id)
    with worker.answering(run, 1), pytest.raises(Declined):
        worker.segmenter_for(run)


CHANGES: dict[str, dict[str, Any]] = {
    "another run": {"uid": "f" * 32},
    "another model": {"model": "other", "revision": None, "weights_sha256": None, "dtype": None},
    "agreed anew": {"weights_sha256": None},
    "a shorter prompt": {},
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_run_that_is_not_what_it_was_when_it_was_declined_is_served(
    start: Start, sessions: Sessions, change: str
) -> None:
    prompt = "a " * 40 if change in ("a shorter prompt", "another run") else "person"
    run_id = scenario.load(sessions, scenario.numbered(4), prompts=(prompt,))
    if prompt == "person":
        write(sessions, agree_on_model, run_id, ModelUsed(None, "f" * 64, "bf16"))
    worker = start()
    declined(worker, sessions, run_id)
    declined(worker, sessions, run_id)
    with sessions.begin() as session:
        if CHANGES[change]:
            session.execute(update(Run).where(Run.id == run_id).values(**CHANGES[change]))
        if prompt != "person":
            session.execute(update(Prompt).where(Prompt.run_id == run_id).values(text="person"))
    with worker.answering(view(sessions, run_id), 1):
        worker.segmenter_for(view(sessions, run_id))
    assert reported(sessions).message is None


@pytest.mark.parametrize("change", ["deleted", "over", "corrected"])
def test_a_worker_says_no_longer_that_it_declines_a_run_that_was(start: Start, sessions: Sessions, change: str) -> None:
    run_id = scenario.load(sessions, scenario.numbered(1))
    write(sessions, agree_on_model, run_id, ModelUsed(None, "f" * 64, "bf16"))
    worker = start(heartbeat_seconds=0.1)
    declined(worker, sessions, run_id)
    time.sleep(0.5)  # some heartbeats
    assert reported(sessions).state == "declined"
    if change == "deleted":
        scenario.delete(sessions, run_id)
    elif change == "over":
        scenario.cancel(sessions, run_id)
    else:
        with sessions.begin() as session:
            session.execute(update(Run).values(weights_sha256=None))
    if change != "corrected":  # at once: nobody else is asked
        line = reported(sessions)
        assert (line.state, line.run, line.message) == ("idle", None, None)
    wait_until(lambda: worker._does["state"] == "idle", "the next heartbeat")
    wait_until(lambda: reported(sessions).message is None, "the next heartbeat")


def test_a_model_that_could_not_be_had_is_tried_again_once_its_folder_looks_otherwise(
    start: Start, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    run_id = runs.load(sessions, tmp_path, scenario.numbered(2), model=str(folder))
    worker = start()
    loads: list[bool] = []

    def load(model: str, settings: Settings) -> FakeSegmenter:
        loads.append((folder / "config.json").exists())
        if not (folder / "model.safetensors").exists():
            raise Unreachable("no weights")
        return FakeSegmenter(model)

    monkeypatch.setattr("workers.node.worker.make_segmenter", load)
    declined(worker, sessions, run_id)
    declined(worker, sessions, run_id)
    assert loads == [False]
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    declined(worker, sessions, run_id)
    declined(worker, sessions, run_id)
    assert loads == [False, True]
    (folder / "model.safetensors").write_bytes(b"")
    assert worker.segmenter_for(view(sessions, run_id)).facts.model == str(folder)


def test_a_model_that_could_not_be_had_is_tried_again_after_a_while(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network, a licence or another process on the GPU may have been in the way."""
    clock = [100.0]
    monkeypatch.setattr("workers.node.worker.time", Clock(clock))
    run_id = scenario.load(sessions, scenario.numbered(2))
    worker = start(Unreachable("no access"))
    declined(worker, sessions, run_id)
    monkeypatch.setattr("workers.node.worker.make_segmenter", lambda model, settings: FakeSegmenter(model))
    clock[0] += UNUSABLE_SECONDS - 1
    declined(worker, sessions, run_id)
    clock[0] += 2
    assert worker.segmenter_for(view(sessions, run_id))


def test_a_model_that_cannot_be_had_does_not_cost_the_one_that_is_loaded(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (view(sessions, scenario.load(sessions, scenario.numbered(2), name=name)) for name in "ab")
    worker = start()
    segmenter = worker.segmenter_for(good)

    def missing(models: Sequence[str], settings: Settings) -> None:
        if models == ["gone"]:
            raise Unreachable("no such model")

    monkeypatch.setattr("workers.node.worker.check_models", missing)
    with pytest.raises(Declined):
        worker.segmenter_for(replace(bad, frozen=replace(bad.frozen, model="gone")))
    assert worker.segmenter_for(good) is segmenter


def test_a_model_is_loaded_once_and_given_up_before_another_one_is_loaded(
    start: Start, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (view(sessions, runs.load(sessions, tmp_path, scenario.numbered(2), name, model=name)) for name in "ab")
    worker = start()
    held: list[tuple[str, object]] = []

    def load(model: str, settings: Settings) -> FakeSegmenter:
        held.append((model, worker._segmenter))
        return FakeSegmenter(model)

    monkeypatch.setattr("workers.node.worker.make_segmenter", load)
    for run in (one, one, two, two, one):
        assert worker.segmenter_for(run).facts.model == run.frozen.model
    assert held == [("a", None), ("b", None), ("a", None)]


def test_the_rate_counts_the_images_between_the_first_and_the_last_commit(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("workers.node.worker.time", Clock(clock))
    worker = start()
    run_id = scenario.load(sessions, scenario.numbered(12), chunk_size=12)
    [rung] = runs.ring(sessions, run_id)
    claim = worker.claim(run_id, rung.chunk_id)
    assert claim is not None
    rates = []
    for first in (0, 4, 8):
        worker.commit(claim, [scenario.done(image, 0.9) for image in claim.images[first : first + 4]])
        rates.append(reported(sessions).images_per_second)
        clock[0] += 2.0
    assert rates == [0.0, 2.0, 2.0]


class Clock:
    """The time module, with a clock that only moves when told to."""

    def __init__(self, now: Sequence[float]) -> None:
        self._now = now
        self.sleep = time.sleep

    def monotonic(self) -> float:
        return self._now[0]


def renewed(sessions: Sessions, claim: Claim) -> None:
    """Wait until the lease ends later than now."""
    before = scenario.chunk(sessions, claim.chunk_id).lease_until
    assert before is not None
    wait_until(lambda: (scenario.chunk(sessions, claim.chunk_id).lease_until or 0) > before, "the heartbeat")


def test_the_heartbeat_renews_the_lease_of_a_claim_again_and_again(start: Start, sessions: Sessions) -> None:
    worker = start(heartbeat_seconds=0.1, lease_seconds=60)
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    claim = worker.claim(run_id, rung.chunk_id)
    assert claim is not None
    for _ in range(3):
        renewed(sessions, claim)
    assert [chunk.lease_over for chunk in scenario.running(sessions)] == [False]
    assert worker.commit(claim, [scenario.done(image, 0.9) for image in claim.images])


def test_a_worker_that_stands_still_lets_its_lease_run_out(start: Start, sessions: Sessions) -> None:
    worker = start(heartbeat_seconds=0.1, lease_seconds=0.5, stall_seconds=0.3)
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    claim = worker.claim(run_id, rung.chunk_id)
    assert claim is not None
    wait_until(lambda: [chunk.lease_over for chunk in scenario.running(sessions)] == [True], "the end of the lease")
    with pytest.raises(LeaseLost):
        worker.commit(claim, [scenario.done(image, 0.9) for image in claim.images])


def test_progress_keeps_the_lease_however_long_the_chunk_takes(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("workers.node.worker.time", Clock(clock))
    worker = start(heartbeat_seconds=0.1, lease_seconds=60, stall_seconds=15)
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    claim = worker.claim(run_id, rung.chunk_id)
    assert claim is not None
    for _ in range(4):
        clock[0] += 10
        worker.progressed()
        renewed(sessions, claim)
    assert worker.commit(claim, [scenario.done(image, 0.9) for image in claim.images])


def test_a_claim_that_somebody_else_has_by_now_is_noticed_by_the_heartbeat(start: Start, sessions: Sessions) -> None:
    worker = start(heartbeat_seconds=0.1, lease_seconds=100)
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    claim = worker.claim(run_id, rung.chunk_id)
    assert claim is not None
    assert not worker.stopped(claim)
    wait_until(lambda: scenario.take_back(sessions, claim), "a moment between two heartbeats")
    wait_until(lambda: worker.stopped(claim), "the heartbeat")
    assert worker.has_lost(claim)
    assert not worker.draining.is_set()


def forgotten(sessions: Sessions, worker: Worker) -> int:
    """The worker's process stands still for 25 hours, and somebody clears up meanwhile; its id until then."""
    before = worker.id
    with sessions.begin() as session:
        session.execute(delete(WorkerRow).where(WorkerRow.id == before))
    return before


def test_a_worker_that_was_forgotten_while_it_stood_still_registers_itself_anew(
    start: Start, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    worker = start(heartbeat_seconds=0.1)
    before = forgotten(sessions, worker)
    wait_until(lambda: worker.id != before, "its new row")
    assert reported(sessions).state == "idle"
    assert caplog.text.count("this worker was forgotten") == 1


def test_a_forgotten_worker_keeps_the_chunk_that_it_holds(start: Start, sessions: Sessions) -> None:
    worker = start()
    before = forgotten(sessions, worker)
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    claim = worker.claim(run_id, rung.chunk_id)  # which notices, like every report
    assert claim is not None
    assert worker.id != before
    assert scenario.chunk(sessions, claim.chunk_id).owner_id == worker.id
    assert reported(sessions).state == "running"
    assert worker.commit(claim, [scenario.done(image, 0.9) for image in claim.images])


def test_a_commit_whose_answer_was_lost_is_found_to_have_landed(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start()
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    claim = worker.claim(run_id, rung.chunk_id)
    assert claim is not None

    def twice(sessions: Sessions, work: Callable[[Session], bool]) -> bool:
        write(sessions, work)  # it got there, the connection broke, and it is tried again
        return write(sessions, work)

    monkeypatch.setattr("workers.node.worker.write", twice)
    first, rest = claim.images[:1], claim.images[1:]
    assert not worker.commit(claim, [scenario.done(image, 0.9) for image in first])
    assert worker.commit(claim, [scenario.done(image, 0.9) for image in rest])
    assert runs.results(sessions) == 4


@pytest.mark.usefixtures("database_url")
def test_a_stand_in_for_the_model_is_named_by_module_and_factory() -> None:
    segmenter = make_segmenter("any", Settings(segmenter="tests.fakes:FakeSegmenter"))
    assert type(segmenter).__name__ == "FakeSegmenter"
    assert segmenter.facts.model == "any"
