"""Turns between runs: how few doorbells are rung ahead, while no worker waits for one. Workers in any interleaving."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from db import claims
from db.doorbells import RungChunk
from db.session import Sessions, write
from tests.db import scenario
from workers.fleet.dispatch import CHUNKS_PER_WORKER, SMALLEST_WINDOW, dispatch

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

WORKERS = 4


class Farm:
    """Workers that take doorbells in the order they were rung, and ring the next ones as a node's task does.

    A worker's steps are: take a doorbell and claim its chunk; end the chunk; choose the next chunks and commit that;
    publish their doorbells. Any other worker may step in between.
    """

    def __init__(self, sessions: Sessions, seed: int) -> None:
        self.sessions = sessions
        self.rung: deque[RungChunk] = deque()  # what the broker holds
        self.claimed: list[str] = []  # the run of each chunk, in the order of the claims
        self.waits = 0  # how often a worker found no doorbell though a chunk was pending, and none was on its way
        self._on_their_way = 0  # doorbells chosen and committed that are not published yet
        self._dice = random.Random(seed)
        self._next: list[Callable[[], bool]] = []
        for number in range(1, WORKERS + 1):
            self._next.append(self._steps(scenario.worker(sessions, number)).__next__)
            dispatch(sessions, self.rung.extend)  # as a node does that has just come

    def step(self) -> bool:
        """One step of a worker that is drawn by lot; false if it has nothing to do."""
        return self._dice.choice(self._next)()

    def _steps(self, worker_id: int) -> Iterator[bool]:
        while True:
            if not self.rung:
                self.waits += self._pending() and not self._on_their_way
                yield False
                continue
            bell = self.rung.popleft()
            claim = write(self.sessions, claims.claim, bell.run_id, bell.chunk_id, worker_id)
            assert claim is not None
            self.claimed.append(bell.run_name)
            yield True
            scenario.commit_all(self.sessions, claim)
            yield True
            chosen: list[RungChunk] = []
            dispatch(self.sessions, chosen.extend, [bell.run_id])
            self._on_their_way += len(chosen)
            yield True
            self._on_their_way -= len(chosen)
            self.rung.extend(chosen)

    def _pending(self) -> bool:
        return any(chunk.state == "pending" for chunk in scenario.chunks(self.sessions, 1))


def steps(farm: Farm, count: int) -> Sequence[bool]:
    return [farm.step() for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lost", [0, WORKERS])
def test_no_worker_waits_for_a_doorbell_while_a_chunk_is_pending(sessions: Sessions, seed: int, lost: int) -> None:
    """Never but for the moment in which another one publishes it; also with as many lost doorbells as workers."""
    scenario.load(sessions, scenario.numbered(40), "big", chunk_size=1)
    farm = Farm(sessions, seed)
    for _ in range(lost):
        farm.rung.popleft()
    while any(steps(farm, 10 * WORKERS)):
        assert farm.waits == 0
    assert len(farm.claimed) == 40 - lost


@pytest.mark.parametrize("seed", range(3))
def test_a_small_run_behind_a_big_one_begins_after_two_chunks_of_each_worker(sessions: Sessions, seed: int) -> None:
    scenario.load(sessions, scenario.numbered(100), "big", chunk_size=1)
    farm = Farm(sessions, seed)
    steps(farm, 30)
    assert farm.claimed
    small = scenario.load(sessions, scenario.numbered(1), "small", chunk_size=1)
    before = len(farm.claimed)
    assert dispatch(sessions, farm.rung.extend, [small]) == 1
    while "small" not in farm.claimed:
        farm.step()
    assert farm.claimed.index("small") - before <= CHUNKS_PER_WORKER * WORKERS


def test_before_there_is_a_worker_hardly_anything_is_rung(sessions: Sessions) -> None:
    scenario.load(sessions, scenario.numbered(100), "big", chunk_size=1)
    rung: list[RungChunk] = []
    assert dispatch(sessions, rung.extend) == SMALLEST_WINDOW <= CHUNKS_PER_WORKER
