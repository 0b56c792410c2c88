"""How a chunk is claimed and its batches are committed, on SQLite and on PostgreSQL."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from threading import Barrier, BrokenBarrierError, current_thread
from typing import Any

import pytest
from sqlalchemy import event, func, select

from db import claims, doorbells, presence, runs
from db.claims import LeaseLost, ModelUsed, Next
from db.models import Result
from db.presence import Process
from db.session import Sessions, read, reading, write
from db.values import Spent
from db.views.run_views import run_view
from tests.db import scenario
from tests.db.scenario import claim, done, failed, load, numbered
from tests.terminals import PATIENCE


def test_a_chunk_is_claimed_once_however_many_ask(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    [rung] = write(sessions, doorbells.ring_pending, run_id, 10)
    start = Barrier(8)

    def ask(worker_id: int) -> claims.Claim | None:
        start.wait()
        return write(sessions, claims.claim, run_id, rung.chunk_id, worker_id)

    with ThreadPoolExecutor(8) as threads:
        given = [one for one in threads.map(ask, range(1, 9)) if one is not None]

    [held] = given
    assert held.fence == 1
    assert [image.path for image in held.images] == ["000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg"]
    assert scenario.run(sessions, run_id).started_at is not None


def test_a_chunk_that_was_not_rung_cannot_be_claimed(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    [one] = scenario.chunks(sessions, run_id)

    assert write(sessions, claims.claim, run_id, one.id, 1) is None


def test_a_doorbell_with_the_wrong_run_claims_nothing(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    [rung] = write(sessions, doorbells.ring_pending, run_id, 1)

    assert write(sessions, claims.claim, run_id + 1, rung.chunk_id, 1) is None


def test_a_batch_is_recorded_once_and_counted(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    one, two, three, four = held.images

    assert not scenario.commit(sessions, held, [done(one, 0.9, 0.6, 0.4), done(two, 0.4)])
    assert scenario.commit(sessions, held, [done(three), failed(four, "truncated")])

    ended = scenario.chunk(sessions, held.chunk_id)
    assert ended.state == "done"
    assert (ended.segmented, ended.empty, ended.failed, ended.instances) == (1, 2, 1, 2)
    assert scenario.run(sessions, run_id).state == "done"
    assert scenario.states(sessions, run_id) == ["done", "done", "done", "failed"]
    assert scenario.images(sessions, run_id)[3].error == "000004.jpg: cannot be read"


def test_a_commit_takes_the_same_few_statements_however_many_images_it_has(sessions: Sessions) -> None:
    held = claim(sessions, load(sessions, numbered(100), chunk_size=100))
    sent: list[str] = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", lambda *args: sent.append(args[2].split()[0]))

    scenario.commit(sessions, held, [done(held.images[0], 0.9), failed(held.images[1])])
    few = sent[:]
    sent.clear()
    scenario.commit(
        sessions, held, [*(done(one, 0.9, 0.8) for one in held.images[2:52]), *map(failed, held.images[52:90])]
    )

    assert sent == few
    assert Counter(sent) - Counter(["BEGIN", "SET"]) == Counter(["UPDATE"] * 3 + ["INSERT"] * 2)
    chunk = scenario.chunk(sessions, held.chunk_id)
    assert (chunk.segmented, chunk.failed, chunk.instances) == (51, 39, 101)


@pytest.mark.parametrize("images", [2, 3])  # more than half of them: more than what is pending after the first time
def test_the_same_batch_committed_twice_is_a_lost_lease_and_counts_once(sessions: Sessions, images: int) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    batch = [done(image, 0.9) for image in held.images[:images]]
    scenario.commit(sessions, held, batch)

    with pytest.raises(LeaseLost):
        scenario.commit(sessions, held, batch)

    assert scenario.chunk(sessions, held.chunk_id).segmented == images


def test_a_batch_with_an_image_of_another_chunk_leaves_nothing(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    mine, other = claim(sessions, run_id), claim(sessions, run_id)

    with pytest.raises(LeaseLost):
        scenario.commit(sessions, mine, [done(mine.images[0], 0.9), done(other.images[0], 0.9)])

    assert _results(sessions) == 0


def test_the_next_claim_takes_only_what_is_pending(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [done(held.images[0], 0.9)])
    write(sessions, claims.release, held)

    again = claim(sessions, run_id)

    assert again.fence == 2
    assert [image.row for image in again.images] == [2, 3, 4]


def test_a_commit_after_the_lease_is_over_leaves_nothing(sessions: Sessions) -> None:
    held = claim(sessions, load(sessions, numbered(4)))
    scenario.lease_runs_out(sessions, held)

    with pytest.raises(LeaseLost):
        scenario.commit_all(sessions, held, 0.9)

    assert _results(sessions) == 0


def test_a_commit_after_the_chunk_was_taken_back_leaves_nothing(sessions: Sessions) -> None:
    held = claim(sessions, load(sessions, numbered(4)))
    scenario.take_back(sessions, held)

    with pytest.raises(LeaseLost):
        scenario.commit_all(sessions, held, 0.9)

    assert _results(sessions) == 0


def test_an_old_owner_cannot_touch_the_chunk_of_the_next(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    old = claim(sessions, run_id, worker_id=1)
    scenario.take_back(sessions, old)
    new = claim(sessions, run_id, worker_id=2)

    with pytest.raises(LeaseLost):
        scenario.commit_all(sessions, old, 0.9)
    assert not write(sessions, claims.heartbeat, old)
    assert not write(sessions, claims.release, old)
    assert not write(sessions, claims.fail_attempt, old, "boom")

    assert scenario.commit_all(sessions, new, 0.9)


def test_a_commit_into_a_cancelled_run_leaves_nothing(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    assert write(sessions, runs.cancel_run, run_id)

    with pytest.raises(LeaseLost):
        scenario.commit_all(sessions, held, 0.9)

    assert _results(sessions) == 0
    assert not write(sessions, claims.heartbeat, held)


def test_a_heartbeat_renews_the_lease_even_when_it_is_just_over(sessions: Sessions) -> None:
    held = claim(sessions, load(sessions, numbered(4)))
    scenario.lease_runs_out(sessions, held)

    assert write(sessions, claims.heartbeat, held)

    assert not scenario.running(sessions)[0].lease_over
    assert scenario.commit_all(sessions, held, 0.9)


def test_a_commit_renews_the_lease(sessions: Sessions) -> None:
    held = claim(sessions, load(sessions, numbered(4)))
    before = scenario.chunk(sessions, held.chunk_id).lease_until

    write(sessions, claims.commit, held, [done(held.images[0], 0.9)], 1000.0)

    after = scenario.chunk(sessions, held.chunk_id).lease_until
    assert before is not None
    assert after is not None
    assert after - before > 900


def test_a_chunk_notes_its_node_its_times_and_what_its_commits_have_spent(sessions: Sessions) -> None:
    worker_id = write(sessions, presence.register, "cpu0@here", Process("here", "boot", 7, 7))
    held = claim(sessions, load(sessions, numbered(4)), worker_id=worker_id)
    first, last = Spent(read=1.0, forward=2.0, waiting=3.5), Spent(forward=2.0, commit=0.5, waiting=2.0)
    write(sessions, claims.commit, held, [done(image, 0.9) for image in held.images[:2]], spent=first)
    begun = scenario.chunk(sessions, held.chunk_id)
    write(sessions, claims.commit, held, [done(image, 0.9) for image in held.images[2:]], spent=last)
    chunk = scenario.chunk(sessions, held.chunk_id)

    assert chunk.node == "cpu0@here"
    assert chunk.started_at is not None
    assert begun.finished_at is not None
    assert chunk.finished_at is not None
    assert chunk.started_at == begun.started_at
    assert chunk.started_at <= begun.finished_at <= chunk.finished_at
    spent = {field: getattr(chunk, f"{field}_seconds") for field in Spent.__dataclass_fields__}
    assert spent == asdict(Spent(read=1.0, forward=4.0, commit=0.5, waiting=5.5))


def test_a_chunk_that_is_claimed_again_keeps_the_time_of_its_first_claim(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    before = scenario.chunk(sessions, held.chunk_id).started_at
    write(sessions, claims.release, held)

    claim(sessions, run_id)

    assert scenario.chunk(sessions, held.chunk_id).started_at == before


def test_the_first_worker_notes_the_versions_that_it_runs(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(1))
    mine = ModelUsed(None, "abc", "fp32")
    write(sessions, claims.agree_on_model, run_id, mine, versions={"torch": "2.14.1"})
    write(sessions, claims.agree_on_model, run_id, mine, versions={"torch": "2.15.0"})

    view = read(sessions, run_view, run_id)
    assert view is not None
    assert view.versions == {"torch": "2.14.1"}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer: no same moment
def test_two_last_chunks_that_end_at_the_same_moment_end_the_run(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    one, two = claim(sessions, run_id), claim(sessions, run_id)
    with ThreadPoolExecutor(1) as other, sessions.begin() as session:
        assert claims.commit(session, one, [done(image, 0.9) for image in one.images]) is Next.NOTHING
        # It cannot see the first chunk's end, which is not committed yet, and waits for it.
        second = other.submit(scenario.commit_all, sessions, two, 0.9)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        session.commit()
        assert second.result(timeout=PATIENCE)

    assert scenario.run(sessions, run_id).state == "done"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_first_two_claims_of_a_run_do_not_wait_for_each_other(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    rung = write(sessions, doorbells.ring_pending, run_id, 2)
    both_read, read_by = Barrier(2), list[str]()

    def meet(*args: Any) -> None:
        if "FOR SHARE" in args[2]:
            read_by.append(current_thread().name)
            with suppress(BrokenBarrierError):  # it is broken if one has to wait for the other, as it should
                both_read.wait(1)

    event.listen(sessions.kw["bind"], "after_cursor_execute", meet)
    with ThreadPoolExecutor(2) as threads:
        claimed = [
            threads.submit(write, sessions, claims.claim, run_id, one.chunk_id, worker_id)
            for worker_id, one in enumerate(rung, start=1)
        ]
        assert all(one.result(PATIENCE) for one in claimed)
    assert len(read_by) == len(set(read_by)) == 2  # none of them a second time, after a deadlock


def test_many_workers_end_a_run_together(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(40), chunk_size=2)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: scenario.work_off(sessions, run_id, 0.9), range(4)))

    assert scenario.run(sessions, run_id).state == "done"
    assert scenario.states(sessions, run_id) == ["done"] * 40


def test_the_first_worker_freezes_its_model_and_the_next_sees_it(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(1))
    first, second = ModelUsed("main", "abc", "fp32", compiled=True), ModelUsed(None, "def", "bf16")

    assert write(sessions, claims.agree_on_model, run_id, first) == first
    assert write(sessions, claims.agree_on_model, run_id, second) == first


def test_rows_with_their_own_prompts_are_claimed_with_them(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(1), numbered(2)[1]._replace(prompts=("dog", "cat"))], prompts=("person",))
    held = claim(sessions, run_id)

    assert [len(image.prompt_ids) for image in held.images] == [1, 2]
    assert scenario.commit_all(sessions, held, 0.9)


def _results(sessions: Sessions) -> int:
    with reading(sessions) as session:
        return session.execute(select(func.count()).select_from(Result)).scalar_one()
