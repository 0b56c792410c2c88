"""The audit that all other tests rely on: it must see what it is there for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.orm import Session

from db import claims, doorbells, steering
from db.claims import Claim
from db.models import Chunk, Image, Result, Run
from db.outcomes import record
from db.session import Sessions, connect, read, write
from tests.db import audit, scenario
from tests.db.recount import differences
from tests.integration.faults.farm import Verdict, judge
from tests.terminals import wait_until


@pytest.fixture
def sessions(database_url: str, with_tables: None) -> Iterator[Sessions]:
    """Our tables with the audit, which here is allowed to find something."""
    sessions = connect(database_url, connections=3)
    yield sessions
    sessions.kw["bind"].dispose()


@pytest.fixture
def run_id(sessions: Sessions) -> int:
    return scenario.load(sessions, scenario.numbered(4), chunk_size=4)


def claimed_twice(sessions: Sessions, run_id: int) -> tuple[Claim, Claim]:
    """A chunk whose first owner was too slow, and so has a second one."""
    first = scenario.claim(sessions, run_id, worker_id=scenario.worker(sessions, 1))
    scenario.take_back(sessions, first, crashed=False)
    return first, scenario.claim(sessions, run_id, first.chunk_id, scenario.worker(sessions, 2))


def test_late_commits_are_unexpected_if_nobody_looks_at_the_fence(
    sessions: Sessions, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug that everything is built against. Its rows agree with each other: only the audit sees it."""
    first, second = claimed_twice(sessions, run_id)
    monkeypatch.setattr(claims, "_fenced", lambda claim: (Chunk.id == claim.chunk_id,))
    scenario.commit(sessions, first, [scenario.done(image, 0.9) for image in first.images[:2]])
    scenario.commit(sessions, second, [scenario.done(image, 0.9) for image in second.images[2:]])
    assert read(sessions, judge, run_id) == Verdict(4, 4, 0, duplicated=0, unexpected=2)
    assert read(sessions, differences) == []
    late = [image.id for image in first.images[:2]]
    assert read(sessions, audit.findings) == [f"images {late} have a result that its chunk's owner did not write"]


def test_a_commit_into_a_chunk_that_nobody_holds_is_unexpected(sessions: Sessions, run_id: int) -> None:
    held = scenario.claim(sessions, run_id, worker_id=scenario.worker(sessions))
    scenario.take_back(sessions, held)
    batch = [scenario.done(held.images[0], 0.9)]
    assert write(sessions, record, held.chunk_id, held.fence, held.threshold, batch, ())  # without asking the chunk
    assert read(sessions, judge, run_id) == Verdict(4, 1, 3, duplicated=0, unexpected=1)


def end(sessions: Sessions, image_id: int, state: str) -> None:
    write(sessions, lambda session: session.execute(update(Image).where(Image.id == image_id).values(state=state)))


@pytest.mark.parametrize(("first", "then"), [("done", "done"), ("failed", "done"), ("cancelled", "failed")])
def test_an_image_that_ends_twice_is_a_duplicate(sessions: Sessions, run_id: int, first: str, then: str) -> None:
    """With the same state too: such a row shows no change."""
    image = scenario.images(sessions, run_id)[0]
    end(sessions, image.id, first)
    assert read(sessions, judge, run_id).duplicated == 0
    end(sessions, image.id, then)
    assert read(sessions, judge, run_id).duplicated == 1
    assert read(sessions, audit.findings) == [f"images [{image.id}] ended more than once"]


@pytest.mark.parametrize("ended", ["done", "failed"])
def test_an_image_taken_up_again_without_a_retry_is_a_duplicate(sessions: Sessions, run_id: int, ended: str) -> None:
    image = scenario.images(sessions, run_id)[0]
    end(sessions, image.id, ended)
    end(sessions, image.id, "pending")
    assert read(sessions, judge, run_id).duplicated == 1


def test_a_retry_is_no_duplicate_and_is_counted(sessions: Sessions, run_id: int) -> None:
    held = scenario.claim(sessions, run_id, worker_id=scenario.worker(sessions))
    scenario.commit(sessions, held, [scenario.failed(image) for image in held.images])
    assert scenario.retry(sessions, run_id) == 4
    scenario.work_off(sessions, run_id, 0.9)
    assert read(sessions, judge, run_id) == Verdict(4, 4, 0, 0, 0)
    assert read(sessions, audit.retried, run_id) == 4
    assert read(sessions, audit.findings) == []


def test_a_second_result_is_a_duplicate_also_where_it_took_the_place_of_the_first(
    sessions: Sessions, run_id: int
) -> None:
    """Its row looks like any other: only that the image ended once tells."""
    scenario.work_off(sessions, run_id, 0.9)
    image = scenario.images(sessions, run_id)[0]

    def replace(session: Session) -> None:
        [result] = session.execute(select(Result).where(Result.image_id == image.id)).scalars()
        values = {column.name: getattr(result, column.name) for column in Result.__table__.columns}
        session.execute(delete(Result).where(Result.image_id == image.id))
        session.execute(insert(Result).values(values))

    write(sessions, replace)

    assert read(sessions, differences) == []
    assert read(sessions, audit.ended_twice) == {image.id}


def test_a_claim_of_a_paused_run_is_seen(sessions: Sessions, run_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunk looks as if the pause had come after the claim."""
    write(sessions, steering.pause, run_id, steering.BY_HAND)
    assert scenario.try_claim(sessions, run_id) is None
    assert read(sessions, audit.findings) == []
    monkeypatch.setattr(claims, "GOES_ON", Run.state == "active")
    monkeypatch.setattr(doorbells, "GOES_ON", Run.state == "active")

    held = scenario.claim(sessions, run_id)

    assert read(sessions, audit.findings) == [f"chunks [{held.chunk_id}] were claimed while their run was paused"]


def test_what_was_claimed_before_a_pause_may_end_in_it(sessions: Sessions, run_id: int) -> None:
    held = scenario.claim(sessions, run_id)
    write(sessions, steering.pause, run_id, steering.BY_HAND)
    scenario.commit(sessions, held, [scenario.done(image, 0.9) for image in held.images])
    assert read(sessions, audit.pauses, run_id) == 1
    assert read(sessions, audit.findings) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_claim_that_a_pause_overtakes_is_none_of_a_paused_run(sessions: Sessions, run_id: int) -> None:
    """Its statement waits for a lock while the run is paused, and goes by what it saw before."""
    [rung] = write(sessions, doorbells.ring_pending, run_id, 1)
    with ThreadPoolExecutor() as threads, sessions() as holder:
        holder.execute(select(Chunk).with_for_update())
        waiting = threads.submit(write, sessions, claims.claim, run_id, rung.chunk_id, 1)
        blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE%'")
        wait_until(lambda: read(sessions, lambda session: session.execute(blocked).scalar_one()), "the claim")
        write(sessions, steering.pause, run_id, steering.BY_HAND)
        holder.rollback()
        assert waiting.result() is not None
    assert read(sessions, audit.pauses, run_id) == 1
    assert read(sessions, audit.findings) == []
