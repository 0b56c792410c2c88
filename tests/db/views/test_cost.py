"""What a run costs, from the seconds that its commits recorded, on SQLite and on PostgreSQL."""

import random

import pytest
from sqlalchemy import update

from db import claims
from db.models import Chunk
from db.session import Sessions, read, write
from db.values import Spent
from db.views import cost, status
from db.views.cost import Cost, Measured
from tests.db import scenario
from tests.db.scenario import claim, load, numbered


def work(sessions: Sessions, run_id: int, *seconds: float, worker: int = 1) -> None:
    """Claim and end the next chunks; each takes so long, half of it waiting for the model."""
    for spent in seconds:
        held = claim(sessions, run_id, worker_id=worker)
        outcomes = [scenario.done(image, 0.9) for image in held.images]
        write(sessions, claims.commit, held, outcomes, 60.0, Spent(forward=9.0, commit=spent / 2, waiting=spent / 2))


def cost_of(sessions: Sessions, run_id: int) -> Cost:
    return read(sessions, lambda session: cost.cost_of(session, run_id, status.progress(session, run_id)))


def test_nothing_is_projected_before_anything_was_measured(sessions: Sessions) -> None:
    assert cost_of(sessions, load(sessions, numbered(8))) == Cost(0.0, None, None)


def test_the_rest_costs_what_the_images_before_it_did(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(20), chunk_size=4)

    work(sessions, run_id, 4.0, 2.0, 2.0)

    assert cost_of(sessions, run_id) == Cost(8.0, 0.5, 4.0)  # the first chunk, in which the node gets warm, left out


def test_each_node_gets_warm_in_a_chunk_of_its_own(sessions: Sessions) -> None:
    one, two = scenario.worker(sessions, 1), scenario.worker(sessions, 2)
    run_id = load(sessions, numbered(40), chunk_size=4)
    work(sessions, run_id, 9.0, worker=one)
    work(sessions, run_id, 2.0, worker=one)
    work(sessions, run_id, 9.0, worker=two)

    assert cost_of(sessions, run_id) == Cost(20.0, 0.5, 28 * 0.5)


def test_before_a_chunk_is_done_its_batches_are_what_is_known(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4), chunk_size=4)
    held = claim(sessions, run_id)

    write(sessions, claims.commit, held, [scenario.done(held.images[0], 0.9)], 60.0, Spent(commit=1.0, waiting=2.0))

    assert cost_of(sessions, run_id) == Cost(3.0, 3.0, 9.0)


@pytest.mark.parametrize(
    ("database_url", "seed"), [("sqlite", 0), ("sqlite", 1), ("postgresql", 2)], indirect=["database_url"]
)
def test_the_projection_after_a_twentieth_is_within_15_percent_of_the_end(sessions: Sessions, seed: int) -> None:
    """Two workers; each gets warm for 20 images' time, and chunks differ by a quarter, as pictures do."""
    dice = random.Random(seed)
    workers = [scenario.worker(sessions, number) for number in (1, 2)]
    run_id = load(sessions, numbered(400), chunk_size=4)
    projected = 0.0
    for number in range(100):
        warms_up = 20.0 if number < 2 else 0.0
        work(sessions, run_id, 4 * dice.uniform(0.75, 1.25) + warms_up, worker=workers[number % 2])
        if number == 4:
            now = cost_of(sessions, run_id)
            projected = now.spent + (now.left or 0.0)

    assert projected == pytest.approx(cost_of(sessions, run_id).spent, rel=0.15)


def test_another_run_is_projected_from_the_latest_one_of_its_model_with_as_many_prompts(sessions: Sessions) -> None:
    two = load(sessions, numbered(8), "two", ("person", "dog"))
    work(sessions, two, 4.0, 8.0)
    for name, seconds in (("old", 2.0), ("new", 1.0)):
        work(sessions, load(sessions, numbered(8), name), seconds, seconds)
    load(sessions, numbered(8), "unmeasured")

    def measured(model: str, prompts: int) -> Measured | None:
        return read(sessions, cost.measured_with, model, prompts)

    assert measured("tiny", 1) == Measured("new", 1, 0.25)
    assert measured("tiny", 3) == Measured("two", 2, 2.0)
    assert measured("facebook/sam3", 1) is None


def test_chunks_of_an_earlier_release_have_no_seconds_and_are_not_taken_for_free(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(20), chunk_size=4)
    work(sessions, run_id, 0.0, 0.0, 4.0, 2.0)
    with sessions.begin() as session:
        session.execute(update(Chunk).where(Chunk.number <= 2).values(node=None, started_at=None))

    assert cost_of(sessions, run_id).seconds_per_image == 0.5
