"""At least once, and in any order: what the broker may do to messages, and what becomes of it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from sqlalchemy import select

from db.models import Worker
from db.session import Sessions, reading
from tests.db import scenario
from tests.terminals import Terminal, wait_until
from tests.workers import runs
from workers.broker.app import create_app
from workers.fleet.dispatch import publisher
from workers.settings import Settings

IMAGES = 60
TIMES = 5


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
def test_two_nodes_share_a_run_whose_doorbells_all_come_five_times_among_garbage(
    here: Terminal, sessions: Sessions, broker_url: str, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path / "pictures", runs.pictures(tmp_path / "pictures", IMAGES), chunk_size=4)
    rung = runs.ring(sessions, run_id) * TIMES
    random.Random(7).shuffle(rung)
    publisher(create_app(Settings(broker_url=broker_url)))(rung)
    stranger = create_app(Settings(broker_url=broker_url))
    foreign, queue = runs.message(replace(rung[0], database="somebody else's")), runs.queue(sessions)
    for message in ({"v": 99, "canary": "canary"}, "canary", {"v": 1, "run": run_id, "chunk": 1, "ring": 1}, foreign):
        stranger.send_task("sam3.segment_chunk", args=[message], queue=queue)

    worker = here.start("sam3-worker", "--gpus", "cpu", "--num-gpus", "2", FAKE_SECONDS_PER_IMAGE="0.05")
    wait_until(lambda: scenario.run(sessions, run_id).state == "done", "the run")
    with redis.Redis.from_url(broker_url) as client:
        wait_until(lambda: not client.llen(queue) and not client.hlen(f"{queue}-unacked"), "the late doorbells")
    worker.interrupt()
    said = worker.wait(code=130)

    assert runs.results(sessions) == IMAGES  # the primary key forbids more; less would be lost
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}  # claimed once each
    with reading(sessions) as session:
        worked = {row.node: row.images for row in session.execute(select(Worker.node, Worker.images))}
    assert {node.partition("@")[0] for node in worked} == {"cpu0", "cpu1"}
    assert sum(worked.values()) == IMAGES
    assert min(worked.values()) > 0
    assert "messages from the broker" in said
    assert "dropped a doorbell of another database" in said
    assert "canary" not in said
