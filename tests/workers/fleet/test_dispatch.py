"""Which chunks are rung, in which order things happen, and what a doorbell looks like on the broker."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import pools
from kombu.exceptions import OperationalError
from redis.connection import Connection

from db import claims, intake
from db.doorbells import RungChunk, identity
from db.session import Sessions, read, write
from tests.db import scenario
from tests.workers.runs import queue
from workers.broker.app import create_app
from workers.fleet.dispatch import CHUNKS_PER_WORKER, SMALLEST_WINDOW, dispatch, publisher
from workers.fleet.valkey import BundledBroker
from workers.settings import Settings

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Bells:
    """Keeps what is rung; fails from the one after `working`."""

    def __init__(self, working: int = 10_000) -> None:
        self.rung: list[RungChunk] = []
        self._working = working

    def __call__(self, chunks: Sequence[RungChunk]) -> None:
        if len(self.rung) + len(chunks) > self._working:
            raise OperationalError("connection refused")
        self.rung += chunks


def workers(sessions: Sessions, count: int) -> int:
    """Register so many live workers, and return how many."""
    return len([scenario.worker(sessions, pid) for pid in range(1, count + 1)])


def states(sessions: Sessions, run_id: int) -> list[str]:
    return [chunk.state for chunk in scenario.chunks(sessions, run_id)]


def test_a_run_is_rung_up_to_its_window_and_no_further(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(SMALLEST_WINDOW + 10), chunk_size=1)
    bells = Bells()
    assert dispatch(sessions, bells) == SMALLEST_WINDOW
    assert [rung.number for rung in bells.rung] == list(range(1, SMALLEST_WINDOW + 1))
    assert dispatch(sessions, bells) == 0
    scenario.claim(sessions, run_id, bells.rung[0].chunk_id)
    assert dispatch(sessions, Bells()) == 0  # the claim above rang all that were due


def test_a_claimed_chunk_makes_room_for_one_more(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(SMALLEST_WINDOW + 10), chunk_size=1)
    bells = Bells()
    dispatch(sessions, bells)
    write(sessions, claims.claim, run_id, bells.rung[0].chunk_id, scenario.worker(sessions))
    assert dispatch(sessions, bells) == 1


def test_many_live_workers_widen_the_window(sessions: Sessions) -> None:
    scenario.load(sessions, scenario.numbered(100), chunk_size=1)
    workers(sessions, 11)
    assert dispatch(sessions, Bells()) == CHUNKS_PER_WORKER * 11


def test_every_active_run_gets_its_own_window_and_others_get_none(sessions: Sessions) -> None:
    workers(sessions, 2)
    first = scenario.load(sessions, scenario.numbered(3), "first", chunk_size=1)
    second = scenario.load(sessions, scenario.numbered(2), "second", chunk_size=1)
    cancelled = scenario.load(sessions, scenario.numbered(2), "cancelled", chunk_size=1)
    scenario.cancel(sessions, cancelled)
    loading = scenario.create(sessions, "loading")
    write(sessions, intake.begin_reading, loading, 1, 1, ["path"])
    scenario.add(sessions, loading, scenario.numbered(2))
    bells = Bells()
    assert dispatch(sessions, bells) == 5
    assert {rung.run_id for rung in bells.rung} == {first, second}


def test_runs_take_turns(sessions: Sessions) -> None:
    workers(sessions, 2)
    for name, count in (("first", 4), ("second", 2), ("third", 1)):
        scenario.load(sessions, scenario.numbered(count), name, chunk_size=1)
    bells = Bells()
    dispatch(sessions, bells)
    names = [rung.run_name for rung in bells.rung]
    assert names == ["first", "second", "third", "first", "second", "first", "first"]


def test_only_the_asked_for_run_is_rung(sessions: Sessions) -> None:
    first = scenario.load(sessions, scenario.numbered(3), "first", chunk_size=1)
    second = scenario.load(sessions, scenario.numbered(2), "second", chunk_size=1)
    assert dispatch(sessions, Bells(), [second]) == 2
    assert states(sessions, first) == ["pending"] * 3


def test_a_chunk_is_committed_as_queued_before_its_doorbell_is_rung(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2), chunk_size=1)
    seen: list[list[str]] = []
    dispatch(sessions, lambda chunks: seen.append(states(sessions, run_id)))
    assert seen == [["queued", "queued"]]


def test_a_broker_that_fails_leaves_rows_to_ring_again(
    sessions: Sessions, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers(sessions, 3)
    run_id = scenario.load(sessions, scenario.numbered(5), chunk_size=1)
    monkeypatch.setattr("workers.fleet.dispatch.DOORBELLS_PER_ROUND_TRIP", 2)
    bells = Bells(working=3)
    assert dispatch(sessions, bells) == 2
    assert states(sessions, run_id) == ["queued"] * 5
    assert "doorbells are rung again later" in caplog.text


def test_a_real_broker_that_is_away_is_one_warning_without_its_password(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2), chunk_size=1)
    app = create_app(Settings(broker_url="redis://:canary@127.0.0.1:1/0"))
    assert dispatch(sessions, publisher(app)) == 0
    assert states(sessions, run_id) == ["queued"] * 2
    assert len(caplog.records) == 1
    assert "canary" not in caplog.text


def test_a_doorbell_on_the_broker_is_readable_in_flower_and_names_no_file_in_its_body(
    sessions: Sessions, broker_url: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(3), chunk_size=3)
    [chunk] = scenario.chunks(sessions, run_id)
    assert dispatch(sessions, publisher(create_app(Settings(broker_url=broker_url)))) == 1
    with redis.Redis.from_url(broker_url) as client:
        [raw] = client.lrange(queue(sessions), 0, -1)
    message: dict[str, Any] = json.loads(raw)
    headers = message["headers"]
    assert headers["id"] == "faces-00001.1"
    assert headers["task"] == "sam3.segment_chunk"
    assert headers["argsrepr"] == "run=faces chunk=1 images=3 first=000001.jpg"
    assert headers["kwargsrepr"] == "{}"
    assert headers["eta"] is None  # a message with one waits in a worker's memory
    assert headers["timelimit"] == [None, None]
    assert message["content-type"] == "application/json"
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert args == [{"v": 2, "db": read(sessions, identity), "run": run_id, "chunk": chunk.id, "ring": 1}]
    assert kwargs == {}


def test_many_doorbells_and_their_events_are_one_round_trip(
    sessions: Sessions, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = CHUNKS_PER_WORKER * workers(sessions, 32)
    scenario.load(sessions, scenario.numbered(many), chunk_size=1)
    ring = publisher(create_app(Settings(broker_url=broker_url)))
    ring([RungChunk(1, "first", 1, 1, 1, 1, "a.jpg", read(sessions, identity))])  # connects, and makes the queue known
    sent: list[bytes] = []
    send = Connection.send_packed_command

    def count(self: Connection, command: Any, *args: Any, **kwargs: Any) -> None:
        sent.append(b"".join([command] if isinstance(command, bytes) else command))
        send(self, command, *args, **kwargs)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Connection, "send_packed_command", count)
    assert dispatch(sessions, ring) == many
    assert len(sent) == 1
    assert (sent[0].count(b"LPUSH\r\n"), sent[0].count(b"PUBLISH\r\n")) == (many, many)


def test_a_broker_that_was_restarted_meanwhile_is_connected_to_anew(
    sessions: Sessions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario.load(sessions, scenario.numbered(2), chunk_size=1)
    broker = BundledBroker(tmp_path / "broker")
    broker.start()
    ring = publisher(create_app(Settings(broker_url=broker.url)))
    ring([RungChunk(1, "first", 1, 1, 1, 1, "a.jpg", "")])
    broker.stop()
    broker.start()
    try:
        assert dispatch(sessions, ring) == 2
        with redis.Redis.from_url(broker.url) as client:
            assert client.llen(queue(sessions)) == 2
        assert not caplog.records
    finally:
        broker.stop()


def test_a_connection_that_breaks_at_any_command_loses_no_doorbell(
    sessions: Sessions, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [RungChunk(1, "first", number, number, 1, 1, "a.jpg", "") for number in range(3)]
    send = Connection.send_packed_command
    left = 0

    def break_once(self: Connection, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.exceptions.ConnectionError("broken by the test")
        send(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Connection, "send_packed_command", break_once)
    with redis.Redis.from_url(broker_url) as client:
        for command in range(1, 100):
            pools.reset()  # apps share connections, and connecting takes commands too
            left = command
            publisher(create_app(Settings(broker_url=broker_url)))(chunks)
            if left > 0:  # all was sent before it came to that
                break
            rung = [json.loads(raw)["headers"]["id"] for raw in client.lrange("sam3", 0, -1)]
            assert set(rung) == {"first-00000.1", "first-00001.1", "first-00002.1"}
            client.delete("sam3")
    assert command > 3
