"""The door of chunk states: every change is a named transition, and nothing else writes chunks."""

import itertools
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import chunks, doorbells
from db.chunks import change_chunks
from db.models import Chunk
from db.session import Sessions, write
from db.states import LIVE, ChunkState
from db.transitions import Transition
from tests.db import audit, door, scenario


def test_only_the_door_writes_chunks() -> None:
    found = {
        str(path.relative_to(door.PROJECT)): lines
        for path in door.sources()
        if (lines := door.writes_in(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "session.execute(update(Chunk).values(state='done'))",
        "session.execute(update(models.Chunk).values(error=None))",
        "session.execute(insert(Chunk))",
        "session.add(Chunk(number=1))",
        "session.get(Chunk, 1).state = 'done'",
        "session.execute(select(Chunk)).scalars().one().state = 'done'",
        "update(Base.metadata.tables['chunk'])",
        "session.execute(text('UPDATE chunk SET state = 1'))",
    ],
)
def test_a_write_beside_the_door_is_seen_in_the_source(line: str) -> None:
    assert len(door.writes_in(line)) == 1


def test_a_write_beside_the_door_is_seen_when_it_is_made(sessions: Sessions, strangers: list[str]) -> None:
    beside = compile(
        "def act(session, statement): session.execute(statement)", str(door.PROJECT / "db" / "doorbells.py"), "exec"
    )
    found: dict[str, object] = {}
    exec(beside, found)
    write(sessions, found["act"], update(Chunk).values(error=None))  # type: ignore[arg-type]
    write(sessions, lambda session: session.execute(update(Chunk).values(error=None)))
    assert len(strangers) == 1
    assert strangers.pop().startswith("db/doorbells.py:1: UPDATE chunk")


def test_a_transition_changes_chunks_in_its_states_and_no_others(sessions: Sessions) -> None:
    """And it leaves a lease where the chunk runs, and only there."""
    run_id = scenario.load(sessions, scenario.numbered(2), chunk_size=2)
    [chunk] = scenario.chunks(sessions, run_id)

    def attempt(session: Session, transition: Transition, state: ChunkState) -> tuple[int, str, bool]:
        lease, failed = (1.0 if state == ChunkState.RUNNING else None), (0 if state in LIVE else 2)
        session.execute(update(Chunk).values(state=state, failed=failed, lease_until=lease))
        again: dict[str, Any] = {"lease_until": 2.0} if transition.after == ChunkState.RUNNING else {}
        counts = {"failed": 2 - failed} if transition.after not in LIVE else {}
        changed = change_chunks(session, transition, Chunk.id == chunk.id, counts=counts, error="why", **again)
        found = session.execute(select(Chunk.state, Chunk.lease_until.is_not(None))).one()
        session.rollback()
        return changed, found[0], found[1]

    for transition, state in itertools.product(Transition, ChunkState):
        if transition.before:
            changed = state in transition.before
            after = transition.after if changed else state
            assert write(sessions, attempt, transition, state) == (changed, after, after == ChunkState.RUNNING)


def test_the_audit_sees_a_change_that_is_no_transition(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2), chunk_size=2)
    write(sessions, doorbells.ring_pending, run_id, 1)
    with sessions() as session:
        session.execute(update(Chunk).values(state=ChunkState.FAILED, failed=2))
        assert audit.findings(session) == ["chunks changed from queued to failed, which is no transition"]


def test_counters_move_by_what_is_told_and_a_chunk_left_by_its_failures_is_done(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    held = scenario.claim(sessions, run_id)
    scenario.commit(sessions, held, [scenario.failed(image) for image in held.images])
    scenario.retry(sessions, run_id)
    first, second = scenario.chunks(sessions, run_id)
    assert (first.state, first.images, first.failed) == ("done", 0, 0)
    assert (second.state, second.images) == ("pending", 4)


def test_chunks_are_locked_in_the_order_of_their_ids(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(40))
    ids = [chunk.id for chunk in scenario.chunks(sessions, run_id)]
    assert write(sessions, chunks.lock_chunks, Chunk.id.in_(ids[::-1])) == sorted(ids)
