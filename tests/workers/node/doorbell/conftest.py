"""The Celery task in this process, called as Celery calls it, with a model that does what a test asks for."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import celery._state
import pytest
from celery import Celery

from db.session import Sessions
from tests.fakes import FakeSegmenter
from tests.workers import runs
from workers.inference import selftest
from workers.inference.protocol import Options, Pixels
from workers.node.breaker import Breaker
from workers.node.node import Node
from workers.node.tasks import segment_chunk

Work = Callable[[], None]
real_self_test = selftest.check


class Segmenter(FakeSegmenter):
    """Does something of the test's before each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, Work] = {}  # by the number of the forward pass, from 1

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        self.before.get(len(self.forwards) + 1, lambda: None)()
        return super().predict(batch, prompts, options)


@pytest.fixture
def app(
    broker_url: str,
    database_url: str,
    sessions: Sessions,
    no_settings_of_this_machine: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Celery]:
    """The current application of this process, as in a node; batches are of two images."""
    for name, value in {
        "BROKER_URL": broker_url,
        "DATABASE_URL": database_url,
        "BATCH_SIZE": "2",
        "DECODE_THREADS": "1",
        "SEGMENTER": "tests.fakes:FakeSegmenter",  # the one below, in truth
        "LEASE_SECONDS": "3000",
        "HEARTBEAT_SECONDS": "1000",
        "FAULT_PAUSE_SECONDS": "0",
        "NODE": "cpu0",
    }.items():
        monkeypatch.setenv(f"SAM3_{name}", value)
    app = runs.app(sessions, broker_url)
    app.set_current()
    yield app
    celery._state._set_current_app(None)  # type: ignore[attr-defined]


@pytest.fixture
def segmenter(app: Celery, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """The model that this process's worker loads."""
    segmenter = Segmenter()
    monkeypatch.setattr(Node, "_this", None)
    monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: segmenter)
    monkeypatch.setattr(
        "workers.inference.selftest.check", lambda segmenter, passes=1, compiled=False: None
    )  # its forward pass is told elsewhere
    return segmenter


@pytest.fixture
def serve_tested(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Callable[[Segmenter], None]:
    """Lets the worker load this model instead, and test it as it does elsewhere."""

    def serve(other: Segmenter) -> None:
        monkeypatch.setattr("workers.node.model.make_segmenter", lambda model, settings, everything: other)
        monkeypatch.setattr("workers.inference.selftest.check", real_self_test)

    return serve


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """A process that has answered a doorbell keeps a handler of a node's."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def breaker(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """A breaker that tells nobody: the parent of this process is not a node."""
    breaker = Breaker(0, tell=lambda number: None)
    monkeypatch.setattr("workers.node.node.Breaker", lambda faults, tell: breaker)
    return breaker


def answer(message: Any) -> dict[str, Any]:
    done = segment_chunk(message)
    assert isinstance(done, dict)
    return done


def fail(message: str) -> None:
    raise RuntimeError(message)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows when the process ends, here by an exception instead."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", lambda code: exit_with(ended, code))
    monkeypatch.setattr("workers.node.life.logging.shutdown", lambda: None)
    return ended


def exit_with(ended: list[int], code: int) -> None:
    ended.append(code)
    raise SystemExit(code)


class Touchy(Segmenter):
    """Raises for an image of this width, and for everything, its self-test included, once it is `broken`."""

    def __init__(self, width: int = 0) -> None:
        super().__init__()
        self.width, self.broken = width, False

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        raw = super().predict(batch, prompts, options)
        if self.broken or self.width in [pixels.width for pixels in batch]:
            raise ValueError("an odd\nwidth")
        return raw
