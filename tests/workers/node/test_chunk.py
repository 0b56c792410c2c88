"""The chunk in hand: recorded batch by batch, counted once, and left."""

from collections.abc import Callable

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.session import Sessions, write
from tests.db import scenario
from tests.fakes import Clock
from tests.workers import runs
from tests.workers.node.conftest import Start, claimed

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_the_rate_counts_the_images_between_the_first_and_the_last_commit(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("workers.node.chunk.time", clock)
    node = start()
    chunk = claimed(node, sessions, scenario.numbered(12), chunk_size=12)
    rates = []
    for first in (0, 4, 8):
        chunk.commit([scenario.done(image, 0.9) for image in chunk.images[first : first + 4]])
        rates.append(runs.reported(sessions).images_per_second)
        clock.move(2.0)
    assert rates == [0.0, 2.0, 2.0]


def test_a_commit_whose_answer_was_lost_is_found_to_have_landed(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    chunk = claimed(node, sessions, scenario.numbered(4))

    def twice(sessions: Sessions, work: Callable[[Session], bool]) -> bool:
        write(sessions, work)  # it got there, the connection broke, and it is tried again
        return write(sessions, work)

    monkeypatch.setattr("workers.node.chunk.write", twice)
    first, rest = chunk.images[:1], chunk.images[1:]
    assert not chunk.commit([scenario.done(image, 0.9) for image in first])
    assert chunk.commit([scenario.done(image, 0.9) for image in rest])
    assert runs.results(sessions) == 4


def test_a_batch_that_the_database_does_not_take_is_not_counted(
    start: Start, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    chunk = claimed(node, sessions, scenario.numbered(4))

    def away(*_: object) -> bool:
        raise OperationalError("commit", {}, Exception("the server closed the connection"))

    with monkeypatch.context() as patch:
        patch.setattr("workers.node.chunk.write", away)
        with pytest.raises(OperationalError):
            chunk.commit([scenario.done(image, 0.9) for image in chunk.images])
    assert (node.worker.counts.images, node.worker.activity.doing.images) == (0, 0)
    chunk.commit([scenario.done(image, 0.9) for image in chunk.images])
    assert (node.worker.counts.images, node.worker.activity.doing.images) == (4, 4)
