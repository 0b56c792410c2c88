"""The broker breaks down, forgets, repeats and talks nonsense: nothing is lost, and nothing is done twice."""

import os
import random
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from db.session import Sessions
from tests.db import scenario
from tests.integration.faults import farm
from tests.integration.valkey import Valkey
from tests.terminals import Background, Terminal, wait_until
from tests.workers import runs
from workers.broker.app import create_app
from workers.broker.contract import TASK
from workers.fleet.dispatch import publisher
from workers.fleet.valkey import free_port
from workers.settings import Settings

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("nobody_dies"),
]

IMAGES, CHUNK, NODES = 96, 8, 2
CHUNKS = IMAGES // CHUNK


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    server.wait_until_ready()
    yield server
    server.close()


@pytest.fixture
def broker_url(server: Valkey) -> str:
    """What `here` gives to its commands: a server that the test can break."""
    return server.url


@pytest.fixture
def run_id(sessions: Sessions, tmp_path: Path) -> int:
    return farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=CHUNK)


@pytest.fixture
def worker(here: Terminal, sessions: Sessions, run_id: int) -> Background:
    """Two nodes in the middle of the run, with a chunk each in hand: some four seconds of work are left."""
    worker = start(here)
    farm.some_results(sessions, more=4 * NODES)
    return worker


def start(here: Terminal, slow: float = 0.1, **environment: str) -> Background:
    return farm.start(here, "one", "--num-gpus", str(NODES), slow=slow, **environment)


def stand_still_in_hand(server: Valkey, sessions: Sessions) -> int:
    """The broker stops while a worker has a chunk in hand; how many results there were before."""
    return farm.halt_in_hand(sessions, lambda: server.signal(signal.SIGSTOP), lambda: server.signal(signal.SIGCONT))


def finish(sessions: Sessions, run_id: int, worker: Background) -> str:
    """Wait for the run, stop the worker and judge; return what it said. Its log may hold Celery's tracebacks."""
    farm.finish(sessions, run_id)
    worker.interrupt()
    said = worker.wait(code=130)
    farm.check(sessions, run_id)
    return said


def everything_was_done_once(here: Terminal, sessions: Sessions, run_id: int, said: str) -> None:
    """Each chunk was claimed once, each image computed once, and no process ended before its time."""
    assert [chunk.fence for chunk in scenario.chunks(sessions, run_id)] == [1] * CHUNKS
    assert farm.forwards(here) == IMAGES + NODES  # and one for each node's test of itself
    assert "ended (" not in said
    assert farm.crashes(said) == 0


def rings(sessions: Sessions, run_id: int) -> list[int]:
    """How many doorbells each chunk has had."""
    return [chunk.ring for chunk in scenario.chunks(sessions, run_id)]


def repeated(server: Valkey, queue: str) -> bool:
    """Whether a doorbell waits that had been taken before."""
    return any(b'"redelivered": true' in message for message in server.client.lrange(queue, 0, -1))


def seen_within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether it holds at some time of these seconds, all of which pass."""
    end, seen = time.monotonic() + seconds, False
    while time.monotonic() < end:
        seen = seen or condition()
        time.sleep(0.01)
    return seen


def test_connections_cut_again_and_again_repeat_doorbells_but_no_claim(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background
) -> None:
    """What a lost connection had in hand is restored at once, while its chunk still runs."""
    seen = 0
    for _ in range(8):
        server.client.client_kill_filter(_type="normal")
        server.client.client_kill_filter(_type="pubsub")
        seen += seen_within(0.4, lambda: repeated(server, runs.queue(sessions)))
    assert seen > 0
    farm.finish(sessions, run_id)
    wait_until(lambda: server.is_silent(runs.queue(sessions)), "the last repeated doorbell to be dropped")
    said = finish(sessions, run_id, worker)
    everything_was_done_once(here, sessions, run_id, said)


def test_a_killed_broker_that_comes_back_with_its_queue_is_all_that_is_needed(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background
) -> None:
    before = stand_still_in_hand(server, sessions)
    server.kill()
    farm.some_results(sessions, before=before)  # chunks in hand need no broker
    server.start()
    said = finish(sessions, run_id, worker)
    assert rings(sessions, run_id).count(1) >= CHUNKS - NODES  # only one on its way to a node can have been lost
    everything_was_done_once(here, sessions, run_id, said)


@pytest.mark.parametrize("how", ["killed", "flushed"])
def test_a_broker_that_forgot_everything_has_every_doorbell_rung_again(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background, how: str
) -> None:
    if how == "killed":
        server.kill()
        server.forget()
        server.start()
    else:
        server.client.flushall()
    said = finish(sessions, run_id, worker)
    # Two chunks a node are rung ahead, of which each node may have had one in hand.
    assert sum(number > 1 for number in rings(sessions, run_id)) >= NODES
    everything_was_done_once(here, sessions, run_id, said)


def test_a_broker_that_stands_still_holds_up_no_chunk_in_hand(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background
) -> None:
    """Longer than the fifteen seconds that our sockets wait for an answer, also to say that a chunk is over."""
    before = stand_still_in_hand(server, sessions)
    farm.some_results(sessions, before=before)
    away = "lost doorbells are not looked for: the broker cannot be reached"
    wait_until(lambda: away in worker.output(), "the reconciler to miss the broker")
    server.signal(signal.SIGCONT)
    said = finish(sessions, run_id, worker)
    everything_was_done_once(here, sessions, run_id, said)


def test_a_broker_without_memory_is_waited_for(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background
) -> None:
    """A doorbell can still be taken from its queue, but not be noted as taken: it is lost, and rung again."""
    server.client.config_set("maxmemory", 1)
    time.sleep(4)
    server.client.config_set("maxmemory", 0)
    said = finish(sessions, run_id, worker)
    assert "used memory > 'maxmemory'" in said
    everything_was_done_once(here, sessions, run_id, said)


def test_a_broker_that_cannot_save_is_waited_for(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background
) -> None:
    """Its snapshot fails, so it refuses every write with MISCONF."""
    obstacle = server.folder / "dump.rdb"
    obstacle.mkdir()
    server.client.config_set("save", "3600 1000000")
    server.client.bgsave()
    time.sleep(4)
    obstacle.rmdir()
    server.client.bgsave()
    said = finish(sessions, run_id, worker)
    assert "MISCONF" in said
    everything_was_done_once(here, sessions, run_id, said)


def test_a_broker_that_was_the_replica_of_an_empty_one_for_a_while_is_waited_for(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background, tmp_path: Path
) -> None:
    """It refuses every write with READONLY, and its queue is replaced by the other's."""
    other = Valkey(tmp_path / "other")
    other.start()
    try:
        other.wait_until_ready()
        server.client.replicaof(other.address, other.port)
        wait_until(lambda: not server.client.exists(runs.queue(sessions)), "the other's data")
        time.sleep(2)
        server.client.replicaof("NO", "ONE")
    finally:
        other.close()
    said = finish(sessions, run_id, worker)
    assert "read only replica" in said
    everything_was_done_once(here, sessions, run_id, said)


def test_doorbells_handed_out_again_while_their_chunk_still_runs_are_dropped(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int
) -> None:
    """Each chunk takes longer than the broker waits for its acknowledgement.

    A node looks for late ones every hundred seconds only, so we do in its place.
    """
    worker = start(here, slow=0.2, SAM3_VISIBILITY_SECONDS="1")
    seen = 0
    app = runs.app(sessions, server.url, visibility_seconds=1)
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        while not farm.is_over(sessions, run_id):
            channel.qos.restore_visible(num=100, interval=1)
            seen += repeated(server, runs.queue(sessions))
            time.sleep(0.2)
    said = finish(sessions, run_id, worker)
    assert seen > 0
    everything_was_done_once(here, sessions, run_id, said)


def test_doorbells_ten_times_in_any_order_with_old_rings_and_for_other_runs_claim_each_chunk_once(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, tmp_path: Path
) -> None:
    other = runs.load(sessions, tmp_path / "other", runs.pictures(tmp_path / "other", CHUNK), "other", CHUNK)
    rung = runs.ring(sessions, run_id)
    doorbells = [replace(one, ring=ring) for one in rung for ring in range(-4, 6)]
    doorbells += [replace(one, run_id=wrong) for one in rung for wrong in (other, 10**9)]
    random.Random(7).shuffle(doorbells)
    publish = publisher(create_app(Settings(broker_url=server.url)))
    publish(doorbells)
    worker = start(here, slow=0.02)
    farm.finish(sessions, other)
    said = finish(sessions, run_id, worker)
    assert "ended (" not in said
    assert farm.forwards(here) == IMAGES + CHUNK + NODES
    assert {chunk.fence for run in (run_id, other) for chunk in scenario.chunks(sessions, run)} == {1}


class Mine:
    """What somebody who can write to the broker would like us to unpickle."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._target),)


def test_garbage_on_the_broker_runs_no_code_and_ends_no_node(
    here: Terminal, sessions: Sessions, server: Valkey, run_id: int, worker: Background, tmp_path: Path
) -> None:
    """All kinds of it are told in test_strangers.py."""
    stranger = Celery(broker=server.url, set_as_current=False)
    crater, queue = tmp_path / "crater", runs.queue(sessions)
    stranger.send_task(TASK, args=[Mine(crater)], serializer="pickle", queue=queue)
    stranger.send_task("canary.unknown", queue=queue)
    for raw in (b"not json", b"{}", b"[]", b"\xff\x80"):
        server.client.rpush(queue, raw)  # to the end that is taken from first
    said = finish(sessions, run_id, worker)
    assert not crater.exists()
    assert "does another program or release write to it?" in said
    everything_was_done_once(here, sessions, run_id, said)


def test_flower_may_stand_still_and_die(here: Terminal, sessions: Sessions, run_id: int, worker: Background) -> None:
    port = free_port()
    flower = here.start("sam3-flower", "--port", str(port))
    wait_until(lambda: answers(port), "Flower")
    os.kill(flower.process.pid, signal.SIGSTOP)
    time.sleep(1)
    flower.process.kill()
    said = finish(sessions, run_id, worker)
    everything_was_done_once(here, sessions, run_id, said)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
