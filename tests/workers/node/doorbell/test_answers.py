"""Which doorbells are answered, good, late, doubled or bad, and which chunks are rung afterwards."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from db import claims, doorbells, steering
from db.intake import NewRow
from db.session import Sessions, write
from tests.db import scenario
from tests.workers import runs
from tests.workers.node.doorbell.conftest import Segmenter, answer
from workers.broker.connection import Doorbells
from workers.node.model import Model

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("message", [None, "canary", {"v": 99}, {"v": 1, "run": "canary", "chunk": 1, "ring": 1}])
def test_a_bad_message_is_dropped_and_its_content_is_not_logged(
    segmenter: Segmenter, caplog: pytest.LogCaptureFixture, message: Any
) -> None:
    assert list(answer(message)) == ["dropped"]
    assert "dropped a doorbell" in caplog.text
    assert "canary" not in caplog.text


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
    assert isinstance(told.pop("seconds"), float)
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
