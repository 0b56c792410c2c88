"""What status, workers and exports read of runs, on SQLite and on PostgreSQL."""

from sqlalchemy import update

from db import claims, presence
from db.intake import NewRow
from db.models import Chunk, Run
from db.session import Sessions, reading, write
from db.views import status
from db.views.status import ErrorLine, ImageCounts
from tests.db import scenario
from tests.db.scenario import REJECTED, claim, done, failed, load, numbered, rows


def test_progress_counts_every_state(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(12), *numbered(2), REJECTED])
    held = claim(sessions, run_id)
    one, two, three, four = held.images
    scenario.commit(sessions, held, [done(one, 0.9, 0.8), done(two), failed(three), done(four, 0.4)])
    claim(sessions, run_id)

    with reading(sessions) as session:
        progress = status.progress(session, run_id)

    assert progress.images == ImageCounts(
        total=15, pending=8, segmented=1, empty=2, failed=1, cancelled=0, duplicate=2, rejected=1
    )
    assert progress.chunks == {"pending": 1, "queued": 0, "running": 1, "done": 2, "failed": 0, "cancelled": 0}
    assert (progress.run, progress.state, progress.instances) == ("faces", "active", 2)
    assert progress.images_per_second is None
    assert progress.eta_seconds is None


def test_progress_of_a_run_without_chunks_is_all_zero(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)

    with reading(sessions) as session:
        progress = status.progress(session, run_id)

    assert progress.images == ImageCounts(0, 0, 0, 0, 0, 0, 0, 0)
    assert (progress.state, progress.next_retry_seconds) == ("loading", None)


def test_the_rate_of_an_active_run_is_the_sum_of_its_live_workers(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    for number, state in enumerate(["running", "running", "idle"], start=1):
        does = {"state": state, "run_id": run_id, "images_per_second": 2.0}
        write(sessions, presence.report, scenario.worker(sessions, number), **does)

    with reading(sessions) as session:
        progress = status.progress(session, run_id)

    assert (progress.images_per_second, progress.eta_seconds) == (4.0, 1.0)


def test_the_rate_of_a_done_run_is_the_mean_over_its_time(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    scenario.work_off(sessions, run_id, 0.9)
    with sessions.begin() as session:
        session.execute(update(Run).values(started_at=1000.0, finished_at=1002.0))

    with reading(sessions) as session:
        progress = status.progress(session, run_id)

    assert progress.images_per_second == 2.0
    assert progress.eta_seconds is None


def test_progress_says_when_the_first_resting_chunk_is_due(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    write(sessions, claims.fail_attempt, claim(sessions, run_id), "boom")
    with sessions.begin() as session:
        session.execute(update(Chunk).values(not_before=Chunk.not_before + 2000))  # so that no pause of ours is longer

    with reading(sessions) as session:
        seconds = status.progress(session, run_id).next_retry_seconds
        assert seconds is not None
        assert 1000 < seconds <= 2005
    scenario.rest_is_over(sessions, scenario.chunks(sessions, run_id)[0].id)
    with reading(sessions) as session:
        assert status.progress(session, run_id).next_retry_seconds is None


def test_errors_are_listed_by_class_with_the_first_path(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(4), NewRow("bad", rejected=("bad_path", "the path leaves the root"))])
    held = claim(sessions, run_id)
    one, two, three, four = held.images
    scenario.commit(sessions, held, [done(one), failed(two, "missing"), failed(three), failed(four, "missing")])
    other = load(sessions, rows("x"), name="other")
    of_other = claim(sessions, other)
    scenario.commit(sessions, of_other, [failed(of_other.images[0], "missing")])

    with reading(sessions) as session:
        found = status.errors(session, run_id)

    assert found == [
        ErrorLine("missing", 2, "000002.jpg"),
        ErrorLine("bad_path", 1, "bad"),
        ErrorLine("truncated", 1, "000003.jpg"),
    ]
