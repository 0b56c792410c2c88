"""Turns between runs: how few doorbells are rung ahead, while no worker waits for one. Workers in any interleaving."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event

from db import claims, doorbells, steering
from db.doorbells import Call, RungChunk
from db.session import Sessions, read, write
from tests.db import scenario
from workers.fleet.dispatch import CHUNKS_PER_WORKER, SMALLEST_WINDOW, _most, dispatch

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
            if read(self.sessions, doorbells.call_of, bell.run_id, bell.chunk_id) is Call.OUTRANKED:
                write(self.sessions, doorbells.unqueue, bell.chunk_id)
                yield True
                continue
            claim = write(self.sessions, claims.claim, bell.run_id, bell.chunk_id, worker_id)
            assert claim is not None
            self.claimed.append(bell.run_name)
            yield True
            scenario.commit_all(self.sessions, claim)
            yield True
            chosen: list[RungChunk] = []
            dispatch(self.sessions, chosen.extend)
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


def steer(sessions: Sessions, run_id: int, **values: Any) -> None:
    write(sessions, partial(steering.steer, **values), run_id)


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_images_of_a_higher_priority_are_done_within_two_chunk_times_of_a_million(
    sessions: Sessions, seed: int
) -> None:
    """No worker begins a chunk of the big run while one of the small run waits, so it waits for one chunk only: its own
    hundred images in thirteen chunks take each worker less time than one chunk of 256."""
    scenario.load(sessions, scenario.numbered(50), "big", chunk_size=1)  # each stands for a chunk of 256 images
    farm = Farm(sessions, seed)
    steps(farm, 30)
    small = scenario.load(sessions, scenario.numbered(13), "small", chunk_size=1)  # each stands for 8 images
    steer(sessions, small, priority=5)
    before = len(farm.claimed)
    dispatch(sessions, farm.rung.extend, [small])
    while scenario.run(sessions, small).state == "active":
        farm.step()
    since = farm.claimed[before:]
    last = len(since) - since[::-1].index("small")
    assert since[:last] == ["small"] * 13
    while any(steps(farm, 10 * WORKERS)):
        pass
    assert farm.claimed.count("big") == 50


def test_runs_of_a_lower_priority_are_rung_when_all_chunks_of_the_higher_ones_are(sessions: Sessions) -> None:
    low = scenario.load(sessions, scenario.numbered(10), "low", chunk_size=1)
    high = scenario.load(sessions, scenario.numbered(SMALLEST_WINDOW + 1), "high", chunk_size=1)
    steer(sessions, high, priority=1)
    rung: list[RungChunk] = []
    assert dispatch(sessions, rung.extend) == SMALLEST_WINDOW
    assert {bell.run_name for bell in rung} == {"high"}
    assert dispatch(sessions, rung.extend, [low]) == 0
    write(sessions, claims.claim, high, rung[0].chunk_id, scenario.worker(sessions))
    dispatch(sessions, rung.extend)
    assert [bell.run_name for bell in rung[SMALLEST_WINDOW:]] == ["high"]  # exactly its window: more may wait
    dispatch(sessions, rung.extend)
    assert [bell.run_name for bell in rung[SMALLEST_WINDOW + 1 :]] == ["low"] * SMALLEST_WINDOW


def test_a_chunk_that_rests_lets_runs_of_a_lower_priority_pass(sessions: Sessions) -> None:
    scenario.load(sessions, scenario.numbered(2), "low", chunk_size=1)
    high = scenario.load(sessions, scenario.numbered(1), "high")
    steer(sessions, high, priority=1)
    held = scenario.claim(sessions, high)
    write(sessions, claims.fail_attempt, held, "boom")
    rung: list[RungChunk] = []
    dispatch(sessions, rung.extend)
    assert {bell.run_name for bell in rung} == {"low"}


@pytest.mark.parametrize("seed", range(3))
def test_a_run_with_a_share_has_no_more_workers_than_that_and_the_others_go_on(sessions: Sessions, seed: int) -> None:
    small = scenario.load(sessions, scenario.numbered(30), "small", chunk_size=1)
    steer(sessions, small, share=0.3, priority=5)
    other = scenario.load(sessions, scenario.numbered(30), "other", chunk_size=1)
    farm = Farm(sessions, seed)
    while scenario.run(sessions, other).state == "active":
        farm.step()
        taken = [chunk for chunk in scenario.chunks(sessions, small) if chunk.state in ("queued", "running")]
        assert len(taken) <= 1  # 0.3 of 4 workers
    while any(steps(farm, 10 * WORKERS)):
        pass
    assert scenario.run(sessions, small).state == "done"


def test_a_run_without_a_budget_costs_no_statement_more_and_one_with_a_budget_two(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(10), "big", chunk_size=1)
    dispatch(sessions, lambda chunks: None)
    sent: list[str] = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", lambda *args: sent.append(args[2]))
    dispatch(sessions, lambda chunks: None)
    plain = len([one for one in sent if one.startswith("SELECT")])
    steer(sessions, run_id, stop_after=["5% failed of 500"])
    sent.clear()
    dispatch(sessions, lambda chunks: None)
    assert plain == 2  # the workers, and the runs with their chunks
    assert len([one for one in sent if one.startswith("SELECT")]) == plain + 2


@pytest.mark.parametrize(
    ("share", "workers", "most"), [(0.29, 100, 29), (0.3, 4, 1), (0.01, 4, 1), (0.5, 3, 1), (1, 9, None)]
)
def test_a_share_is_a_whole_number_of_workers_and_at_least_one(
    sessions: Sessions, share: float, workers: int, most: int | None
) -> None:
    assert _most(share, workers) == most
