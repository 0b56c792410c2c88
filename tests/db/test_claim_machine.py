"""Any interleaving of owners, reconcilers and operators that Hypothesis can make up: nothing lost, nothing twice."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from db import claims, doorbells, redo, runs, steering
from db.claims import MAX_ATTEMPTS, Claim, LeaseLost
from db.models import Result
from db.outcomes import Outcome
from db.runs import RetryFilter
from db.session import Sessions, connect, read, write
from db.states import LIVE, STOPPED
from db.times import now
from db.values import Redo
from tests import templates
from tests.db import scenario
from tests.db.recount import differences

pytestmark = pytest.mark.timeout(1200)  # a failure is made smaller before it is told

IMAGES = 9
CHUNK = 4
OWNERS = st.integers(1, 3)
MANY = 400  # more steps than working everything off ever takes


@cache
def template() -> Path:
    """A database with our tables, made once: Hypothesis makes its examples without fixtures."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return templates.make_sqlite(folder / "sam3.db", audited=False)


class Leases(RuleBasedStateMachine):
    """Three workers, each as confused as possible: they keep claims for ever and use any of them at any time."""

    claims = Bundle("claims")

    @initialize(target=claims)
    def load(self) -> MultipleResults[Claim]:
        self.folder = tempfile.TemporaryDirectory()
        database = Path(self.folder.name) / "sam3.db"
        templates.copy_sqlite(template(), database)
        self.sessions: Sessions = connect(f"sqlite:///{database}")
        self.workers = [scenario.worker(self.sessions, pid) for pid in (1, 2, 3)]
        self.run_id = scenario.load(self.sessions, scenario.numbered(IMAGES), chunk_size=CHUNK)
        self.fences: dict[int, int] = {}
        self.committed: dict[int, int] = {}  # image -> fence of the commit that was accepted
        self.older: dict[int, int] = {}  # the same of images that are to be computed again
        return self._claim(1, 0, rung=True)

    @rule(target=claims, owner=OWNERS, which=st.integers(0, 2), rung=st.booleans())
    def claim(self, owner: int, which: int, rung: bool) -> MultipleResults[Claim]:
        """Any chunk that is not over, whether its doorbell rang or not."""
        return self._claim(owner, which, rung)

    def _claim(self, owner: int, which: int, rung: bool) -> MultipleResults[Claim]:
        if rung:
            self.time_passes()
            write(self.sessions, doorbells.ring_pending, self.run_id, 100)
        ids = [chunk.id for chunk in scenario.chunks(self.sessions, self.run_id) if chunk.state in LIVE]
        if not ids:
            return multiple()
        worker_id = self.workers[owner - 1]
        new = not [one for one in scenario.chunks(self.sessions, self.run_id) if one.owner_id == worker_id]
        held = write(self.sessions, claims.claim, self.run_id, ids[which % len(ids)], worker_id)
        assert not (held and new and scenario.run(self.sessions, self.run_id).paused), "a paused run was claimed"
        return multiple() if held is None else multiple(held)

    @rule(held=claims, first=st.integers(0, CHUNK - 1), count=st.integers(1, CHUNK), fails=st.booleans())
    def commit(self, held: Claim, first: int, count: int, fails: bool) -> None:
        """Some of what the claim was for, perhaps for the second time, perhaps long after it was lost."""
        part = held.images[first : first + count]
        if not part:
            return
        outcomes: Sequence[Outcome] = [
            scenario.failed(image) if fails and image is part[0] else scenario.done(image, 0.9) for image in part
        ]
        newest = scenario.chunk(self.sessions, held.chunk_id).fence
        try:
            write(self.sessions, claims.commit, held, outcomes)
        except LeaseLost:
            return
        assert held.fence == newest, "an old owner's commit was accepted"
        for image in part:
            assert image.id not in self.committed, "an image was committed twice"
            self.committed[image.id] = held.fence

    @rule(held=claims, first=st.integers(0, CHUNK - 1), count=st.integers(1, CHUNK))
    def begin_range(self, held: Claim, first: int, count: int) -> None:
        part = held.images[first : first + count]
        if not part:
            return
        try:
            write(self.sessions, claims.begin_range, held, part[0].row, part[-1].row)
        except LeaseLost:
            return
        assert held.fence == scenario.chunk(self.sessions, held.chunk_id).fence

    @rule(held=claims)
    def heartbeat(self, held: Claim) -> None:
        write(self.sessions, claims.heartbeat, held)

    @rule(held=consumes(claims))
    def release(self, held: Claim) -> None:
        write(self.sessions, claims.release, held)

    @rule(held=claims)
    def fail(self, held: Claim) -> None:
        write(self.sessions, claims.fail_attempt, held, "a bug")

    @rule(target=claims, crashed=st.booleans(), lease_over=st.booleans(), next_owner=OWNERS)
    def take_over(self, crashed: bool, lease_over: bool, next_owner: int) -> MultipleResults[Claim]:
        """Whoever runs is found dead, or too late, and another worker begins at once, paused or not before."""
        self.pause(on=False)
        self.take_back(crashed, lease_over)
        return self._claim(next_owner, 0, rung=True)

    @rule(crashed=st.booleans(), lease_over=st.booleans())
    def take_back(self, crashed: bool, lease_over: bool) -> None:
        """Whoever runs is found dead, or too late."""
        for held in scenario.running(self.sessions):
            if lease_over:
                scenario.change_chunk(self.sessions, held.chunk_id, lease_until=now() - 1.0)
        for held in scenario.running(self.sessions):
            write(self.sessions, claims.take_back, held, crashed=crashed)

    @rule()
    def time_passes(self) -> None:
        for chunk in scenario.chunks(self.sessions, self.run_id):
            if chunk.not_before is not None:
                scenario.rest_is_over(self.sessions, chunk.id)

    @rule(whole=st.booleans(), really=st.integers(0, 4))
    def cancel(self, whole: bool, really: int) -> None:
        """Perhaps interrupted half-way. Not too often, since little happens to a run that is cancelled."""
        if really:
            return
        scenario.begin_cancel(self.sessions, self.run_id, chunks=1)
        if whole:
            scenario.cancel(self.sessions, self.run_id)

    @rule(target=claims, owner=OWNERS, which=st.integers(0, 2))
    def pause_before_a_claim(self, owner: int, which: int) -> MultipleResults[Claim]:
        """Of a chunk whose doorbell rang before."""
        write(self.sessions, doorbells.ring_pending, self.run_id, 100)
        self.pause(on=True)
        return self._claim(owner, which, rung=False)

    @rule(on=st.booleans())
    def pause(self, on: bool) -> None:
        """Whatever else happens meanwhile."""
        if on:
            write(self.sessions, steering.pause, self.run_id, steering.BY_HAND)
        else:
            write(self.sessions, steering.resume, self.run_id)

    @rule()
    def retry(self) -> None:
        if scenario.run(self.sessions, self.run_id).state in STOPPED:
            scenario.cancel(self.sessions, self.run_id)
            if read(self.sessions, runs.retryable_images, self.run_id, RetryFilter()):
                write(self.sessions, runs.reopen, self.run_id)
        retried = [image.id for image in scenario.images(self.sessions, self.run_id) if image.state == "failed"]
        scenario.retry(self.sessions, self.run_id)
        for image_id in retried:
            self.committed.pop(image_id, None)

    @rule(rows=st.integers(1, IMAGES))
    def redo(self, rows: int) -> None:
        """Of the first rows, perhaps while others are computed, perhaps as a second one before the first is over."""
        last = read(self.sessions, redo.last_chunk_before, self.run_id)
        ended = read(self.sessions, redo.ended_images, self.run_id, Redo.ALL, range(1, rows + 1), last)
        write(self.sessions, redo.redo_slice, self.run_id, [image.id for image in ended], last)
        for image in scenario.images(self.sessions, self.run_id):
            if image.state == "pending" and image.id in self.committed:
                self.older[image.id] = self.committed.pop(image.id)

    @invariant()
    def the_rows_agree(self) -> None:
        found = read(self.sessions, differences)
        assert not found, found

    @invariant()
    def fences_grow_and_attempts_do_not(self) -> None:
        for chunk in scenario.chunks(self.sessions, self.run_id):
            assert chunk.fence >= self.fences.get(chunk.id, 0)
            self.fences[chunk.id] = chunk.fence
            assert chunk.attempts <= MAX_ATTEMPTS

    @invariant()
    def results_are_those_that_were_accepted(self) -> None:
        rows = read(self.sessions, lambda session: session.execute(select(Result.image_id, Result.fence)).all())
        stored = {row.image_id: row.fence for row in rows}
        assert len(stored) == len(rows)
        kept = {image: fence for image, fence in self.older.items() if image not in self.committed}
        assert stored.items() <= (self.committed | kept).items()

    def teardown(self) -> None:
        """Reasonable workers take over: everything ends, in one state, whatever went before."""
        if not hasattr(self, "sessions"):
            return
        try:
            self._work_off()
        finally:
            self.sessions.kw["bind"].dispose()
            self.folder.cleanup()

    def _work_off(self) -> None:
        if scenario.run(self.sessions, self.run_id).state == "cancelling":
            scenario.cancel(self.sessions, self.run_id)
        write(self.sessions, steering.resume, self.run_id)
        for _ in range(MANY):
            if not [chunk for chunk in scenario.chunks(self.sessions, self.run_id) if chunk.state in LIVE]:
                break
            self.take_back(crashed=False, lease_over=True)
            self.time_passes()
            write(self.sessions, doorbells.ring_pending, self.run_id, 100)
            for chunk in scenario.chunks(self.sessions, self.run_id):
                held = write(self.sessions, claims.claim, self.run_id, chunk.id, self.workers[0])
                if held is not None:
                    write(self.sessions, claims.commit, held, [scenario.done(image) for image in held.images])
        assert scenario.run(self.sessions, self.run_id).state in ("done", "cancelled")
        assert set(scenario.states(self.sessions, self.run_id)) <= {"done", "failed", "cancelled"}
        assert not read(self.sessions, differences)


AS_EVERY_TIME = settings(
    stateful_step_count=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def test_no_short_look_at_interleavings_finds_anything_lost_or_twice() -> None:
    run_state_machine_as_test(Leases, settings=settings(AS_EVERY_TIME, max_examples=8))


@pytest.mark.long
def test_no_long_look_at_interleavings_finds_anything_lost_or_twice() -> None:
    run_state_machine_as_test(Leases, settings=settings(AS_EVERY_TIME, max_examples=40))
