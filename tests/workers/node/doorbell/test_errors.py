"""Errors that the surroundings have nothing to do with: of an image, which fails alone, or of our own code."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from db import claims
from db.intake import NewRow
from db.session import Sessions
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.workers import runs
from tests.workers.node.doorbell.conftest import Segmenter, Touchy, answer, fail
from workers.inference.protocol import Options
from workers.inference.reading.images import RGB
from workers.node.mount import check_mount
from workers.node.tasks import segment_chunk

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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
