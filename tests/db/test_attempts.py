"""How an attempt ends that does not finish its chunk: released, failed or taken back. On SQLite and on PostgreSQL."""

import pytest

from db import claims
from db.session import Sessions, write
from tests.db import scenario
from tests.db.scenario import claim, done, load, numbered


def test_a_released_chunk_gets_its_attempt_back_and_is_due_at_once(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)

    assert write(sessions, claims.release, held, "the disk is full")

    released = scenario.chunk(sessions, held.chunk_id)
    assert (released.state, released.attempts, released.releases) == ("pending", 0, 1)
    assert released.error == "the disk is full"
    assert claim(sessions, run_id).fence == 2


def test_the_tenth_release_in_a_row_rests_for_five_minutes(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    for _ in range(9):
        write(sessions, claims.release, claim(sessions, run_id))
    [one] = scenario.chunks(sessions, run_id)
    assert scenario.rests_for(sessions, one.id) == 0

    write(sessions, claims.release, claim(sessions, run_id))

    assert scenario.rests_for(sessions, one.id) == 300
    assert scenario.try_claim(sessions, run_id) is None
    scenario.rest_is_over(sessions, one.id)
    assert claim(sessions, run_id).fence == 11


def test_a_commit_between_releases_starts_the_count_again(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    for _ in range(9):
        write(sessions, claims.release, claim(sessions, run_id))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [done(held.images[0], 0.9)])

    write(sessions, claims.release, held)

    assert scenario.rests_for(sessions, held.chunk_id) == 0


def test_an_unexpected_error_is_tried_again_later_and_later_then_fails_the_pending_images(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [done(held.images[0], 0.9)])
    write(sessions, claims.release, held)
    for seconds in (5, 10, 20, 40):
        write(sessions, claims.fail_attempt, claim(sessions, run_id), "ValueError: boom")
        assert scenario.rests_for(sessions, held.chunk_id) == seconds
        assert scenario.chunk(sessions, held.chunk_id).error == "ValueError: boom"
        scenario.rest_is_over(sessions, held.chunk_id)

    write(sessions, claims.fail_attempt, claim(sessions, run_id), "ValueError: boom")

    assert scenario.chunk(sessions, held.chunk_id).state == "failed"
    assert [image.error_class for image in scenario.images(sessions, run_id)] == [None] + ["internal"] * 3
    assert scenario.run(sessions, run_id).state == "done"


def test_an_attempt_that_fails_after_a_commit_rests_as_after_a_first_failure(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [done(held.images[0], 0.9)])

    write(sessions, claims.fail_attempt, held, "ValueError: boom")

    assert scenario.rests_for(sessions, held.chunk_id) == 5


@pytest.mark.parametrize(("crashed", "error_class"), [(True, "crashed"), (False, "gave_up")])
def test_the_first_crash_is_free_later_ones_rest_and_the_fifth_gives_up(
    sessions: Sessions, crashed: bool, error_class: str
) -> None:
    run_id = load(sessions, numbered(4))
    [one] = scenario.chunks(sessions, run_id)
    for seconds in (0, 10, 20, 40):
        scenario.take_back(sessions, claim(sessions, run_id), crashed=crashed)
        assert scenario.rests_for(sessions, one.id) == seconds
        scenario.rest_is_over(sessions, one.id)

    scenario.take_back(sessions, claim(sessions, run_id), crashed=crashed)

    assert scenario.chunk(sessions, one.id).state == "failed"
    assert {image.error_class for image in scenario.images(sessions, run_id)} == {error_class}
    assert scenario.run(sessions, run_id).state == "done"


def test_a_crash_after_a_commit_is_a_first_crash_again(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    for _ in range(3):
        held = claim(sessions, run_id)
        scenario.take_back(sessions, held)
        scenario.rest_is_over(sessions, held.chunk_id)
    held = claim(sessions, run_id)
    scenario.commit(sessions, held, [done(held.images[0], 0.9)])

    scenario.take_back(sessions, held)

    assert scenario.rests_for(sessions, held.chunk_id) == 0
    again = scenario.chunk(sessions, held.chunk_id)
    assert (again.attempts, again.crashes) == (0, 1)


def test_no_rest_is_longer_than_five_minutes() -> None:
    assert [claims.rest_after(failures) for failures in (1, 2, 3, 7, 60)] == [5, 10, 20, 300, 300]


def test_the_chunk_of_a_dead_owner_is_taken_back_before_its_lease_is_over(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id, worker_id=3)
    [found] = scenario.running(sessions)
    assert (found.owner_id, found.fence, found.lease_over) == (3, 1, False)

    assert write(sessions, claims.take_back, found, crashed=True)

    assert not write(sessions, claims.take_back, found, crashed=True)
    assert scenario.chunk(sessions, held.chunk_id).state == "pending"


def test_a_lease_that_was_renewed_meanwhile_is_not_taken_back(sessions: Sessions) -> None:
    held = claim(sessions, load(sessions, numbered(4)))
    scenario.lease_runs_out(sessions, held)
    [found] = scenario.running(sessions)
    assert found.lease_over
    write(sessions, claims.heartbeat, held)

    assert not write(sessions, claims.take_back, found, crashed=False)


def test_a_chunk_claimed_again_meanwhile_is_not_taken_back(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    [found] = scenario.running(sessions)
    write(sessions, claims.release, held)
    claim(sessions, run_id)

    assert not write(sessions, claims.take_back, found, crashed=True)
