"""Images that could not be computed for an added prompt keep what they have. On SQLite and on PostgreSQL."""

import pytest

from db import claims, runs
from db.claims import Next
from db.outcomes import Outcome
from db.redo import last_chunk_before, redo_slice
from db.session import Sessions, read, write
from db.views import status
from tests.db import scenario
from tests.db.prompt_results import dump, prompts_of, shown
from tests.db.scenario import change_prompts, claim, commit, commit_all, done, failed, load, rows


@pytest.fixture
def run_id(sessions: Sessions) -> int:
    return scenario.finished(sessions)


def test_a_failure_keeps_the_old_results_and_a_retry_computes_what_is_missing(sessions: Sessions, run_id: int) -> None:
    [person] = prompts_of(sessions, run_id).values()
    before, old = dump(sessions, person), shown(sessions, run_id)
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    outcomes: list[Outcome] = [failed(image, "missing") for image in held.images]

    assert commit(sessions, held, outcomes)

    assert read(sessions, claims.was_committed, held, outcomes) is Next.NOTHING
    assert shown(sessions, run_id) == old
    assert dump(sessions, person) == before
    now = read(sessions, status.progress, run_id)
    assert (now.state, now.incomplete, now.warned, now.images.failed) == ("done", 4, 4, 1)
    [line] = read(sessions, status.warnings, run_id)
    assert (line.count, line.warning) == (4, "prompts that were added later have no result: missing")

    assert scenario.retry(sessions, run_id, runs.RetryFilter("missing")) == 0  # no image failed
    assert read(sessions, runs.retryable_images, run_id, scenario.EVERYTHING) == 5
    assert scenario.retry(sessions, run_id) == 5
    asked = []
    while (next_ := scenario.try_claim(sessions, run_id)) is not None:
        asked += [len(image.prompt_ids) for image in next_.images]
        commit_all(sessions, next_, 0.7)
    assert sorted(asked) == [1, 1, 1, 1, 2]
    assert set(before) < set(dump(sessions, person))
    assert read(sessions, status.progress, run_id).incomplete == 0


def test_a_cancel_keeps_the_old_results_and_a_retry_goes_on(sessions: Sessions, run_id: int) -> None:
    before = shown(sessions, run_id)
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    commit(sessions, held, [done(held.images[0], 0.7)])

    scenario.cancel(sessions, run_id)

    assert shown(sessions, run_id)[1:] == before[1:]
    assert read(sessions, status.progress, run_id).incomplete == 3
    write(sessions, runs.reopen, run_id)
    assert scenario.retry(sessions, run_id) == 4
    scenario.work_off(sessions, run_id, 0.6)
    assert [scores for *_, scores in shown(sessions, run_id)] == [
        [0.9, 0.8, 0.7],
        [0.9, 0.6],
        [0.6],
        [0.4, 0.6],
        [0.6] * 2,
    ]


def test_a_chunk_that_is_given_up_keeps_the_old_results(sessions: Sessions, run_id: int) -> None:
    before = shown(sessions, run_id)
    change_prompts(sessions, run_id, add=["hat"])
    for _ in range(claims.MAX_ATTEMPTS):
        held = claim(sessions, run_id, scenario.chunks(sessions, run_id)[-1].id)
        write(sessions, claims.fail_attempt, held, "a bug")
        scenario.rest_is_over(sessions, held.chunk_id)

    assert scenario.chunks(sessions, run_id)[-1].state == "failed"
    assert shown(sessions, run_id) == before
    assert scenario.retry(sessions, run_id) == 5
    assert scenario.chunks(sessions, run_id)[2].state == "done"
    scenario.work_off(sessions, run_id, 0.6)


def test_an_image_that_crashes_alone_keeps_its_old_results(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9)
    change_prompts(sessions, run_id, add=["hat"])
    for _ in range(claims.CRASHES_BEFORE_SPLIT):
        held = claim(sessions, run_id, scenario.chunks(sessions, run_id)[-1].id)
        write(sessions, claims.begin_range, held, 1, 1)
        scenario.take_back(sessions, held)

    assert shown(sessions, run_id) == [("segmented", [1], [0.9])]
    assert read(sessions, status.progress, run_id).incomplete == 1


def test_an_old_result_of_the_same_fence_does_not_pass_for_a_commit_that_landed(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9)
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    outcomes = [done(image, 0.5) for image in held.images]
    assert held.fence == 1

    assert read(sessions, claims.was_committed, held, outcomes) is None
    commit(sessions, held, outcomes)
    assert read(sessions, claims.was_committed, held, outcomes) is Next.NOTHING


def test_an_image_that_a_cancel_has_ended_does_not_pass_for_a_commit_that_landed(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9)
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    scenario.cancel(sessions, run_id)

    assert read(sessions, claims.was_committed, held, [done(image, 0.5) for image in held.images]) is None


def test_a_redo_of_an_incomplete_image_computes_all_of_its_prompts(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9)
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    commit(sessions, held, [failed(image) for image in held.images])

    [image] = held.images
    assert write(sessions, redo_slice, run_id, [image.id], read(sessions, last_chunk_before, run_id)) == 1

    held = claim(sessions, run_id)
    assert [(len(image.prompt_ids), image.again) for image in held.images] == [(2, True)]
    commit_all(sessions, held, 0.6)
    assert shown(sessions, run_id) == [("segmented", [1, 2], [0.6, 0.6])]


def test_dropping_the_prompt_that_failed_makes_its_images_whole_again(sessions: Sessions, run_id: int) -> None:
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    commit(sessions, held, [failed(image) for image in held.images])

    assert change_prompts(sessions, run_id, drop=["hat"]) == 0

    now = read(sessions, status.progress, run_id)
    assert (now.state, now.incomplete, now.warned) == ("done", 0, 0)
