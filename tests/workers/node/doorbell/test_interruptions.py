"""What ends the work on a chunk before its end: a pause, a correction, a cancel, a delete, a lost lease, or SIGTERM."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from db import claims, corrections, doorbells, steering
from db.intake import NewRow
from db.runs import cancel_run
from db.session import Sessions, read, write
from db.views.run_views import RunView, prompt_texts, run_view
from producer.runs.load import auto_chunk_size
from tests.db import scenario
from tests.workers import runs
from tests.workers.node.doorbell.conftest import Segmenter, answer
from workers.broker.connection import Doorbells
from workers.node.chunk import ChunkInHand
from workers.node.model import Model

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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
