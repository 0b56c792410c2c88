"""What a process serves, what it declines and why, and when it tries again."""

import hashlib
import logging
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db.claims import ModelUsed, agree_on_model
from db.models import Prompt, Run
from db.session import Sessions, reading, write
from db.views.status import workers
from tests.db import scenario
from tests.fakes import Clock, FakeSegmenter
from tests.workers import runs
from tests.workers.node.conftest import Start, answering, declined
from workers.errors import Unreachable
from workers.inference.answers import Found
from workers.inference.models.torch_checkpoint import weights_sha256
from workers.inference.protocol import Options, OutOfMemory
from workers.inference.reading.images import RGB
from workers.node.model import make_segmenter
from workers.node.refusals import UNUSABLE_SECONDS, Declined
from workers.settings import Settings
from workers.tiny.pair import write_random_pair

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def other_weights() -> FakeSegmenter:
    segmenter = FakeSegmenter()
    segmenter.facts = replace(segmenter.facts, weights_sha256="f" * 64)
    return segmenter


def test_the_first_worker_freezes_its_model_into_the_run(start: Start, sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    start().model.segmenter_for(runs.view(sessions, run_id))
    run = runs.view(sessions, run_id)
    assert (run.weights_sha256, run.dtype) == ("0" * 64, "fp32")


@pytest.mark.parametrize("difference", ["weights", "dtype"])
def test_a_worker_with_another_model_declines_the_run_and_says_so_once(
    start: Start, sessions: Sessions, caplog: pytest.LogCaptureFixture, difference: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    [rung] = runs.ring(sessions, run_id)
    start().model.segmenter_for(runs.view(sessions, run_id))
    other = other_weights()
    if difference == "dtype":
        other.facts = replace(FakeSegmenter().facts, dtype="bf16")
    second = start(other, node="cpu1")
    for _ in range(2):
        with (
            answering(second, runs.view(sessions, run_id), rung.chunk_id),
            pytest.raises(Declined, match="it began with"),
        ):
            second.model.segmenter_for(runs.view(sessions, run_id))
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
    run = runs.view(sessions, scenario.load(sessions, scenario.numbered(4)))
    with pytest.raises(Declined, match="no access to facebook/sam3"):
        start(Unreachable("no access to facebook/sam3: accept the licence")).model.segmenter_for(run)
    assert runs.view(sessions, run.id).weights_sha256 is None


class Broken(FakeSegmenter):
    """Loads, but computes no numbers."""

    def _found(self, image: RGB, options: Options) -> Found:
        return Found(presence=math.nan, instances=())


def test_a_model_that_computes_nonsense_declines_the_run_before_anything_is_claimed(
    start: Start, sessions: Sessions
) -> None:
    run = runs.view(sessions, scenario.load(sessions, scenario.numbered(4)))
    with pytest.raises(Declined) as declined:
        start(Broken()).model.segmenter_for(run)
    assert declined.value.fault
    assert runs.view(sessions, run.id).weights_sha256 is None


class Large(FakeSegmenter):
    """Loads, but its forward pass does not fit."""

    def predict(self, *_: object) -> list[Any]:
        raise OutOfMemory


@pytest.mark.parametrize("broken", [Broken, Large])
def test_a_model_that_is_declined_leaves_the_gpu_at_once_and_each_refusal_is_as_short_as_the_first(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, broken: type[FakeSegmenter]
) -> None:
    run = runs.view(sessions, scenario.load(sessions, scenario.numbered(4)))
    node = start()
    made: list[weakref.ref[FakeSegmenter]] = []

    def load(model: str, settings: Settings, *, everything: bool) -> FakeSegmenter:
        segmenter = broken(model)
        made.append(weakref.ref(segmenter))
        return segmenter

    monkeypatch.setattr("workers.node.model.make_segmenter", load)
    lengths = []
    for first in (True, False, False):
        with pytest.raises(Declined) as declined:
            node.model.segmenter_for(run)
        assert (declined.value.fault, declined.value.tried) == (True, first)
        assert declined.value.__context__ is None
        lengths.append(len(declined.traceback))
        assert [one() for one in made] == [None]
    assert lengths == [2, 2, 2]


@pytest.mark.parametrize("error", [OutOfMemory(), MemoryError(), RuntimeError("CUDA out of memory. Tried to ...")])
def test_a_model_that_does_not_fit_is_told_in_one_line(
    start: Start, sessions: Sessions, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    run = runs.view(sessions, scenario.load(sessions, scenario.numbered(4)))
    with pytest.raises(Declined) as declined:
        start(error).model.segmenter_for(run)
    assert str(declined.value) == f"{run.frozen.model} does not fit into memory; is another process on this GPU?"
    assert declined.value.fault
    assert not [record for record in caplog.records if record.exc_info]


def test_a_model_that_could_not_be_had_is_not_tried_again_for_another_run(start: Start, sessions: Sessions) -> None:
    first, second = (runs.view(sessions, scenario.load(sessions, scenario.numbered(2), name=name)) for name in "ab")
    node = start(Unreachable("no access"))
    with pytest.raises(Declined):
        node.model.segmenter_for(first)
    assert node.model.may_serve_another()
    with pytest.raises(Declined) as declined:
        node.model.segmenter_for(second)
    assert not declined.value.tried
    assert not node.model.may_serve_another()


def test_a_prompt_of_the_run_that_is_too_long_for_the_model_declines_it(start: Start, sessions: Sessions) -> None:
    prompt = "a " * 40 + "dog"
    run = runs.view(sessions, scenario.load(sessions, scenario.numbered(4), prompts=(prompt,)))
    with pytest.raises(Declined, match="the same command with another prompt corrects it"):
        start().model.segmenter_for(run)


def test_declining_one_run_is_no_reason_not_to_serve_the_next(start: Start, sessions: Sessions) -> None:
    long = runs.view(sessions, scenario.load(sessions, scenario.numbered(4), name="long", prompts=("a " * 40,)))
    short = runs.view(sessions, scenario.load(sessions, scenario.numbered(4), name="short"))
    node = start()
    with answering(node, long, 1), pytest.raises(Declined):
        node.model.segmenter_for(long)
    with answering(node, short, 2):
        node.model.segmenter_for(short)
        assert runs.reported(sessions).message is None
    assert runs.reported(sessions).state == "idle"


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
    node = start()
    declined(node, sessions, run_id)
    declined(node, sessions, run_id)
    with sessions.begin() as session:
        if CHANGES[change]:
            session.execute(update(Run).where(Run.id == run_id).values(**CHANGES[change]))
        if prompt != "person":
            session.execute(update(Prompt).where(Prompt.run_id == run_id).values(text="person"))
    with answering(node, runs.view(sessions, run_id), 1):
        node.model.segmenter_for(runs.view(sessions, run_id))
    assert runs.reported(sessions).message is None


def test_a_model_that_could_not_be_had_is_tried_again_once_its_folder_looks_otherwise(
    start: Start, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    run_id = runs.load(sessions, tmp_path, scenario.numbered(2), model=str(folder))
    node = start()
    loads: list[bool] = []

    def load(model: str, settings: Settings, *, everything: bool) -> FakeSegmenter:
        loads.append((folder / "config.json").exists())
        if not (folder / "model.safetensors").exists():
            raise Unreachable("no weights")
        return FakeSegmenter(model)

    monkeypatch.setattr("workers.node.model.make_segmenter", load)
    declined(node, sessions, run_id)
    declined(node, sessions, run_id)
    assert loads == [False]
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    declined(node, sessions, run_id)
    declined(node, sessions, run_id)
    assert loads == [False, True]
    (folder / "model.safetensors").write_bytes(b"")
    assert node.model.segmenter_for(runs.view(sessions, run_id)).facts.model == str(folder)


def test_a_model_that_could_not_be_had_is_tried_again_after_a_while(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network, a licence or another process on the GPU may have been in the way."""
    clock = Clock()
    monkeypatch.setattr("workers.node.refusals.time", clock)
    monkeypatch.setattr("workers.node.model.time", clock)
    run_id = scenario.load(sessions, scenario.numbered(2))
    node = start(Unreachable("no access"))
    declined(node, sessions, run_id)
    monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: FakeSegmenter(model))
    clock.move(UNUSABLE_SECONDS - 1)
    declined(node, sessions, run_id)
    clock.move(2)
    assert node.model.segmenter_for(runs.view(sessions, run_id))


def test_a_model_that_cannot_be_had_does_not_cost_the_one_that_is_loaded(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (runs.view(sessions, scenario.load(sessions, scenario.numbered(2), name=name)) for name in "ab")
    node = start()
    segmenter = node.model.segmenter_for(good)

    def missing(models: Sequence[str], settings: Settings) -> None:
        if models == ["gone"]:
            raise Unreachable("no such model")

    monkeypatch.setattr("workers.node.model.check_models", missing)
    with pytest.raises(Declined):
        node.model.segmenter_for(replace(bad, frozen=replace(bad.frozen, model="gone")))
    assert node.model.segmenter_for(good) is segmenter


def test_a_model_is_loaded_once_and_given_up_before_another_one_is_loaded(
    start: Start, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (
        runs.view(sessions, runs.load(sessions, tmp_path, scenario.numbered(2), name, model=name)) for name in "ab"
    )
    node = start()
    held: list[tuple[str, object]] = []

    def load(model: str, settings: Settings, *, everything: bool) -> FakeSegmenter:
        held.append((model, node.model._segmenter))
        return FakeSegmenter(model)

    monkeypatch.setattr("workers.node.model.make_segmenter", load)
    for run in (one, one, two, two, one):
        assert node.model.segmenter_for(run).facts.model == run.frozen.model
    assert held == [("a", None), ("b", None), ("a", None)]


def test_prompts_and_everything_are_two_parts_of_one_model_of_which_one_is_loaded_at_a_time(
    start: Start, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, points = (
        runs.view(sessions, runs.load(sessions, tmp_path, scenario.numbered(2), name, points_per_side=side))
        for name, side in (("words", None), ("points", 8))
    )
    node = start()
    loaded: list[bool] = []

    def load(model: str, settings: Settings, *, everything: bool) -> FakeSegmenter:
        loaded.append(everything)
        if everything:
            raise Unreachable("no tracker")
        return FakeSegmenter(model)

    monkeypatch.setattr("workers.node.model.make_segmenter", load)
    assert node.model.segmenter_for(words)
    declined(node, sessions, points.id)
    assert node.model.segmenter_for(words), "that it has no tracker is no reason against prompts"
    assert loaded == [False, True, False]


@pytest.mark.usefixtures("database_url")
def test_a_stand_in_for_the_model_is_named_by_module_and_factory() -> None:
    segmenter = make_segmenter("any", Settings(segmenter="tests.fakes:FakeSegmenter"))
    assert type(segmenter).__name__ == "FakeSegmenter"
    assert segmenter.facts.model == "any"


@pytest.mark.usefixtures("database_url")
def test_a_pair_of_checkpoints_is_one_model_that_each_worker_knows_by_both_weights(tmp_path: Path) -> None:
    pair = write_random_pair(tmp_path)
    segmenter = make_segmenter(pair, Settings())
    facts = segmenter.facts
    assert (facts.model, facts.dtype) == (pair, "fp32")
    parts = [weights_sha256(Path(part)) for part in pair.split("+")]
    assert facts.weights_sha256 == hashlib.sha256("".join(parts).encode()).hexdigest()
