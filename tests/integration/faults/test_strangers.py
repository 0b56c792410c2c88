"""Somebody else may write to the broker: nodes go on, whatever it is, and only what SQL knows is done."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from db.doorbells import identity
from db.session import Sessions, read
from tests.db import scenario
from tests.integration.faults import farm
from tests.terminals import PATIENCE, Background, Terminal, wait_until
from tests.workers import runs
from tests.workers.garbage import DOORBELL, GARBAGE, message
from workers.broker.app import create_app
from workers.broker.contract import TASK
from workers.fleet.dispatch import publisher
from workers.fleet.processes import this_process
from workers.settings import Settings

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("nobody_dies"),
]

IMAGES, CHUNK = 24, 4


@pytest.fixture
def client(broker_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


def test_garbage_in_the_queue_ends_no_node_delays_no_run_and_is_told_once(
    here: Terminal, sessions: Sessions, client: Any, tmp_path: Path
) -> None:
    run_id = farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=CHUNK)
    worker = farm.start(here, "one")
    farm.some_results(sessions)
    queue = runs.queue(sessions)
    for number, raw in enumerate([*GARBAGE.values(), message([[DOORBELL], {}, {}])]):
        client.rpush(queue, raw)  # to the end that is taken from first
        client.rpush(f"{queue}\x06\x163", raw)
        client.hset(f"{queue}-unacked", f"stranger-{number}", raw)
        client.zadd(f"{queue}-unacked-index", {f"stranger-{number}": 1})
    farm.finish(sessions, run_id)
    said = the_node_lived(worker, client, queue)
    farm.check(sessions, run_id)
    assert said.count("does another program or release write to it?") == 1
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}


def test_keys_of_another_type_in_the_place_of_ours_are_removed(
    here: Terminal, sessions: Sessions, client: Any, tmp_path: Path
) -> None:
    run_id = farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=CHUNK)
    worker = farm.start(here, "one", slow=0.1)
    farm.some_results(sessions)
    queue = runs.queue(sessions)
    bindings = [f"_kombu.binding.{exchange}" for exchange in (queue, "celeryev", "celery.pidbox")]
    for key in (queue, f"{queue}\x06\x163", f"{queue}-unacked", f"{queue}-unacked-index", *bindings):
        client.set(key, "canary")
    farm.finish(sessions, run_id)
    said = farm.end(worker)
    farm.check(sessions, run_id)
    assert "ended (" not in said
    assert "keys of another type" in said


def the_node_lived(worker: Background, client: Any, queue: str) -> str:
    waiting = (queue, f"{queue}\x06\x163")
    wait_until(lambda: not client.exists(*waiting) and not is_busy(client, queue), "the last of the messages")
    said = farm.end(worker)
    assert "ended (" not in said
    assert "Traceback" not in said
    return said


def is_busy(client: Any, queue: str) -> bool:
    """Whether a node has taken a message. Those of strangers, who never give an answer, lie there as well."""
    return any(not tag.startswith(b"stranger") for tag in client.hkeys(f"{queue}-unacked"))


FORGED: dict[str, Callable[[dict[str, Any]], None]] = {
    "a time limit": lambda headers: headers.update(timelimit=[0.05, 0.05]),
    "a time far away": lambda headers: headers.update(eta="2999-01-01T00:00:00+00:00"),
    "over already": lambda headers: headers.update(expires="2001-01-01T00:00:00+00:00"),
    "retries": lambda headers: headers.update(retries=10**9),
    "headers of other types": lambda headers: headers.update(id=7, timelimit="x", eta=[], group={}, argsrepr=3),
    "a compression": lambda headers: headers.update(compression="bzip2"),
    "a stamp": lambda headers: headers.update(stamped_headers=["x"], stamps={"x": 1}),
}


def test_what_a_stranger_adds_to_a_doorbell_counts_for_nothing(
    here: Terminal, sessions: Sessions, client: Any, tmp_path: Path
) -> None:
    run_id = farm.load(sessions, tmp_path / "in", CHUNK * len(FORGED), chunk_size=CHUNK)
    queue = runs.queue(sessions)
    embedded = {"callbacks": [{"task": TASK, "args": ["canary"], "options": {"queue": "elsewhere"}}]}
    for rung, forge in zip(runs.ring(sessions, run_id), FORGED.values(), strict=True):
        forged = json.loads(message([[runs.message(rung)], {}, embedded]))
        forge(forged["headers"])
        client.lpush(queue, json.dumps(forged))
    worker = farm.start(here, "one", slow=0.05)
    farm.finish(sessions, run_id)
    the_node_lived(worker, client, queue)
    farm.check(sessions, run_id)
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}
    assert not client.exists("elsewhere")


def test_a_forged_doorbell_claims_nothing_that_was_not_rung_and_delays_nothing(
    here: Terminal, sessions: Sessions, broker_url: str, client: Any, tmp_path: Path
) -> None:
    """Of another run, of another database, of rings long ago and far ahead, of a run that nobody can serve."""
    run_id = farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=CHUNK)
    declined = runs.load(sessions, tmp_path / "other", scenario.numbered(1), "other", model="/no/such/model")
    rung = runs.ring(sessions, run_id)
    forged = [replace(one, ring=ring) for one in rung for ring in (-(2**62), 0, 2**62)]
    forged += [replace(one, run_id=other) for one in rung for other in (declined, 10**9, -1)]
    forged += [replace(rung[0], chunk_id=chunk) for chunk in (0, -1, 10**9, 2**62)]
    publisher(create_app(Settings(broker_url=broker_url, identity=read(sessions, identity))))(forged)
    worker = farm.start(here, "one")
    farm.finish(sessions, run_id)
    the_node_lived(worker, client, runs.queue(sessions))
    farm.check(sessions, run_id)
    chunks = scenario.chunks(sessions, run_id)
    assert {chunk.fence for chunk in chunks} == {1}
    assert {chunk.ring for chunk in chunks} == {1}  # none was handed back, to be rung again


REFUSAL = "this node takes no remote control; start it with sam3-worker --allow-control"
CONTROL: dict[str, dict[str, Any]] = {
    "cancel_consumer": {"queue": "{queue}"},
    "add_consumer": {"queue": "elsewhere"},
    "shutdown": {},
    "pool_restart": {},
    "pool_shrink": {"n": 1},
    "rate_limit": {"task_name": TASK, "rate_limit": "1/h"},
    "time_limit": {"task_name": TASK, "hard": 0.05},
    "revoke": {"task_id": "faces-00001.1", "terminate": True, "signal": "KILL"},
    "disable_events": {},
    "memdump": {},
    "objgraph": {},
}
# Published on the nodes' own channel, beside commands of the right form.
NOISE = [
    *GARBAGE.values(),
    message(7),
    message({"method": "ping"}, headers={"clock": int("9" * 4000)}),
    message({"method": "ping", "reply_to": {"exchange": "", "routing_key": 7}}),
    message({"method": ["ping"], "arguments": 7, "destination": {"x": 1}, "reply_to": "me"}),
]


def test_nodes_take_no_remote_control_and_still_answer_what_flower_asks(
    here: Terminal, sessions: Sessions, broker_url: str, client: Any, tmp_path: Path
) -> None:
    app = runs.app(sessions, broker_url)
    worker = farm.start(here, "one")
    node = f"cpu0@{this_process().host}"
    wait_until(lambda: app.control.inspect(timeout=1).ping(), "the node")
    for method, arguments in CONTROL.items():
        given = {key: str(value).format(queue=runs.queue(sessions)) for key, value in arguments.items()}
        answers = app.control.broadcast(method, given, reply=True, timeout=PATIENCE, limit=1)
        assert answers == [{node: {"error": REFUSAL}}]
    for raw in NOISE:
        client.publish("/0.celery.pidbox", raw)
        client.publish("/0.celeryev/worker.heartbeat", raw)
    asked = app.control.inspect(timeout=PATIENCE, limit=1, destination=[node])
    for look in ("stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf", "ping"):
        assert list(getattr(asked, look)()) == [node]

    run_id = farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=CHUNK)
    farm.finish(sessions, run_id)
    said = farm.end(worker)
    assert "ended (" not in said
    farm.check(sessions, run_id)


def test_control_that_was_allowed_is_obeyed(here: Terminal, sessions: Sessions, broker_url: str) -> None:
    app = runs.app(sessions, broker_url)
    worker = farm.start(here, "one", "--allow-control")
    wait_until(lambda: app.control.inspect(timeout=1).ping(), "the node")
    app.control.broadcast("shutdown")
    wait_until(lambda: "cpu0 ended (exit code 0)" in worker.output(), "the end of the node")
    farm.end(worker)
