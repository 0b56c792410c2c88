"""A node in this process, without Celery: what it is made of, and a heartbeat that ends with its test."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from db.intake import NewRow
from db.session import Sessions
from db.views.run_views import RunView
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.workers import runs
from workers.node.attempt import Attempt, work
from workers.node.breaker import Breaker
from workers.node.chunk import ChunkInHand
from workers.node.node import Node
from workers.node.refusals import Declined
from workers.settings import Settings

Start = Callable[..., Node]


@pytest.fixture
def start(sessions: Sessions, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Make this process a node; `segmenter` is what its model turns out to be, or fails with."""
    started: list[Node] = []

    def begin(segmenter: FakeSegmenter | Exception | None = None, **settings: Any) -> Node:
        def load(model: str, settings: Settings, *, everything: bool) -> FakeSegmenter:
            if isinstance(segmenter, Exception):
                raise segmenter
            return segmenter or FakeSegmenter(model)

        monkeypatch.setattr("workers.node.model.make_segmenter", load)
        calm: dict[str, Any] = {
            "heartbeat_seconds": 1000,
            "lease_seconds": 3000,
            "node": "cpu0",
            "segmenter": "a:stand_in",
        }
        started.append(Node(Settings(database_url=database_url, **(calm | settings)), a_breaker()))
        assert started[-1].worker  # connected
        return started[-1]

    yield begin
    for node in started:
        node.worker.report = retire  # type: ignore[method-assign]


def retire(**_: object) -> None:
    threading.Event().wait()  # the heartbeat's thread ends with the tests


def a_breaker() -> Breaker:
    """One that tells nobody: the parent of this process is not a node."""
    return Breaker(0, tell=lambda number: None)


def claimed(node: Node, sessions: Sessions, rows: Sequence[NewRow], **how: Any) -> ChunkInHand:
    """The only chunk of a run of these rows, in the node's hand."""
    run_id = scenario.load(sessions, rows, **how)
    [rung] = runs.ring(sessions, run_id)
    chunk = ChunkInHand(node.worker, runs.view(sessions, run_id), rung.chunk_id)
    chunk.announce()
    assert chunk.claim()
    return chunk


@contextmanager
def answering(node: Node, run: RunView, chunk_id: int) -> Iterator[None]:
    """While the node answers the doorbell of this chunk."""
    ChunkInHand(node.worker, run, chunk_id).announce()
    try:
        yield
    finally:
        node.worker.let_go()


def declined(node: Node, sessions: Sessions, run_id: int) -> None:
    """The node declines this run."""
    run = runs.view(sessions, run_id)
    with answering(node, run, 1), pytest.raises(Declined):
        node.model.segmenter_for(run)


def begin(node: Node, sessions: Sessions, run_id: int) -> Attempt | None:
    """An attempt at the run's next chunk; None if there is none."""
    rung = runs.ring(sessions, run_id, 1)
    if not rung:
        return None
    run = runs.view(sessions, run_id)
    chunk = ChunkInHand(node.worker, run, rung[0].chunk_id)
    segmenter = node.model.segmenter_for(run)
    chunk.announce()
    assert chunk.claim()
    return Attempt(node.worker, node.model, segmenter, chunk)


def work_off(node: Node, sessions: Sessions, run_id: int) -> None:
    while (attempt := begin(node, sessions, run_id)) is not None:
        work(attempt)
