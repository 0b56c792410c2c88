"""A GPU or a model that fails its worker: no image suffers for it, and what can be done is done."""

from pathlib import Path

import pytest

from db import doorbells
from db.session import Sessions, write
from tests.db import scenario
from tests.fakes import BREAKS_GPU
from tests.integration.faults import farm
from tests.terminals import Terminal, wait_until
from tests.workers import runs
from workers.broker.app import create_app
from workers.fleet.dispatch import dispatch, publisher, ring
from workers.node.node import DIED_LOADING
from workers.settings import Settings

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_gpu_that_passes_its_test_and_fails_at_work_fails_no_image_and_ends_its_node(
    here: Terminal, sessions: Sessions, tmp_path: Path, failing_attempts: set[str]
) -> None:
    """Each fault ends its process, so it is the Celery parent that counts to three."""
    failing_attempts.add("RuntimeError")
    run_id = farm.load(sessions, tmp_path / "in", 8, chunk_size=4)
    broken = farm.start(here, "one", SAM3_SEGMENTER="tests.fakes:BrokenGpu")
    wait_until(lambda: broken.output().count("repeated faults, told above") == 2, "the breaker, twice")
    assert "this node stops, nothing it tries succeeds; last: " in broken.output()
    assert {(chunk.attempts, chunk.crashes) for chunk in scenario.chunks(sessions, run_id)} == {(0, 0)}
    farm.start(here, "two", "--until-empty").wait()
    farm.check(sessions, run_id)
    assert len(scenario.chunks(sessions, run_id)) == 2
    farm.end(broken, code=None)


def test_the_only_image_of_a_run_can_be_found_to_break_the_gpu(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """Nothing else can be tried that would show that the GPU works: its thorough test does."""
    run_id = farm.load(sessions, tmp_path / "in", 1, {1: BREAKS_GPU})
    farm.start(here, "one", "--until-empty").wait()
    farm.check(sessions, run_id, failed={1: "crashed"})


def test_a_run_whose_model_cannot_be_loaded_does_not_starve_another(
    here: Terminal, sessions: Sessions, tmp_path: Path, failing_attempts: set[str]
) -> None:
    """All its doorbells stand before the first one of the other run."""
    failing_attempts.add("RuntimeError")
    pictures = runs.pictures(tmp_path / "in", 64)
    bad = runs.load(sessions, tmp_path / "in", pictures, "bad", chunk_size=1, model="bad")
    good = runs.load(sessions, tmp_path / "in", pictures, "good", chunk_size=16)
    publish = publisher(create_app(Settings(broker_url=here.environment["SAM3_BROKER_URL"])))
    assert ring(publish, write(sessions, doorbells.ring_pending, bad, len(pictures))) == len(pictures)
    assert dispatch(sessions, publish, [good])
    worker = farm.start(here, "one", SAM3_SEGMENTER="tests.fakes:all_but_bad")
    farm.finish(sessions, good)
    assert "repeated faults" not in worker.output()
    farm.check(sessions, good)
    assert {(chunk.attempts, chunk.fence) for chunk in scenario.chunks(sessions, bad)} == {(0, 0)}
    wait_until(lambda: "repeated faults, told above" in worker.output(), "the breaker: nothing else is left to do")
    farm.end(worker, code=None)


def test_a_model_that_hangs_while_it_is_loaded_is_loaded_anew(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = farm.load(sessions, tmp_path / "in", 8)
    said = farm.start(here, "one", "--until-empty", SAM3_SEGMENTER="tests.fakes:hangs_once").wait()
    farm.check(sessions, run_id)
    assert "this process cannot go on: the model is not ready after 2 s" in said
    assert "fault 1 of 3 in a row" in said
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}


def test_a_model_whose_load_ends_the_process_ends_its_node_after_the_third_time(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """As where the machine has too little memory for the weights, or a library aborts: nobody is left to tell it."""
    run_id = farm.load(sessions, tmp_path / "in", 8)
    worker = farm.start(here, "one", SAM3_SEGMENTER="tests.fakes:dies")
    wait_until(lambda: "repeated faults, told above" in worker.output(), "the breaker")
    assert f"this node stops, nothing it tries succeeds; last: {DIED_LOADING}" in worker.output()
    assert {(chunk.attempts, chunk.crashes) for chunk in scenario.chunks(sessions, run_id)} == {(0, 0)}
    farm.end(worker, code=None)
