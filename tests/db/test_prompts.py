"""Prompts that are added to a run that has results, and dropped ones, on SQLite and on PostgreSQL."""

from dataclasses import replace

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

from db import claims, doorbells, prompts
from db.claimed import ClaimedImage
from db.claims import Claim, LeaseLost
from db.intake import NewRow
from db.models import Prompt, Run
from db.outcomes import ImageDone
from db.redo import last_chunk_before, redo_slice
from db.same_content import done_before
from db.session import Sessions, read, write
from db.slices import Place, Slice
from db.values import FoundInstance, PromptResult
from db.views import status
from tests.db import scenario
from tests.db.prompt_results import dump, found, prompts_of, shown
from tests.db.scenario import change_prompts, claim, commit, commit_all, done, load, numbered, rows, settle_prompts


@pytest.fixture
def run_id(sessions: Sessions) -> int:
    return scenario.finished(sessions)


def test_an_added_prompt_is_computed_alone_and_leaves_all_other_rows_as_they_are(
    sessions: Sessions, run_id: int
) -> None:
    [person] = prompts_of(sessions, run_id).values()
    before = dump(sessions, person)

    assert change_prompts(sessions, run_id, add=["hat"]) == 4

    hat = prompts_of(sessions, run_id)["hat"]
    assert scenario.states(sessions, run_id) == ["pending"] * 4 + ["failed"]
    held = claim(sessions, run_id)
    assert [image.prompt_ids for image in held.images] == [(hat,)] * 4
    assert [image.kept.prompt_ids for image in held.images if image.kept] == [(person, hat)] * 4
    one, two, three, four = held.images
    assert commit(sessions, held, [done(one, 0.7), done(two), done(three, 0.6), done(four)])

    assert dump(sessions, person) == before
    assert shown(sessions, run_id) == [
        ("segmented", [1, 2], [0.9, 0.8, 0.7]),
        ("segmented", [1, 2], [0.9]),
        ("segmented", [1, 2], [0.6]),
        ("empty", [1, 2], [0.4]),
        ("failed", [], []),
    ]
    assert scenario.run(sessions, run_id).state == "done"
    assert not any(image.adds for image in scenario.images(sessions, run_id))


def test_an_image_shows_its_old_results_while_it_waits_for_new_ones(sessions: Sessions, run_id: int) -> None:
    before = shown(sessions, run_id)

    change_prompts(sessions, run_id, add=["hat"])

    assert shown(sessions, run_id) == before
    now = read(sessions, status.progress, run_id)
    assert (now.state, now.images.pending, now.images.failed, now.incomplete) == ("active", 4, 1, 0)


def test_the_same_change_again_changes_nothing(sessions: Sessions, run_id: int) -> None:
    assert write(sessions, prompts.change_prompts, run_id, ["hat"], [])
    assert not write(sessions, prompts.change_prompts, run_id, ["hat"], [])
    assert settle_prompts(sessions, run_id) == 4

    assert change_prompts(sessions, run_id, add=["hat"]) == 0
    scenario.work_off(sessions, run_id, 0.7)
    assert change_prompts(sessions, run_id, add=["hat"]) == 0

    assert scenario.run(sessions, run_id).state == "done"
    assert not scenario.run(sessions, run_id).unsettled


def test_a_killed_pass_is_taken_up_by_the_next_one(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(12))
    scenario.work_off(sessions, run_id, 0.9)
    [person] = prompts_of(sessions, run_id).values()
    before = dump(sessions, person)
    write(sessions, prompts.change_prompts, run_id, ["hat"], [])
    settling = read(sessions, prompts.begin_settling, run_id)
    assert settling is not None
    write(sessions, prompts.settle_slice, run_id, Place(), 4, settling)
    commit_all(sessions, claim(sessions, run_id), 0.7)
    assert scenario.run(sessions, run_id).unsettled

    assert settle_prompts(sessions, run_id) == 8

    scenario.work_off(sessions, run_id, 0.7)
    assert shown(sessions, run_id) == [("segmented", [1, 2], [0.9, 0.7])] * 12
    assert dump(sessions, person) == before


def test_a_pass_of_an_earlier_change_does_not_end_a_later_one(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(12))
    scenario.work_off(sessions, run_id, 0.9)
    write(sessions, prompts.change_prompts, run_id, ["hat"], [])
    early = read(sessions, prompts.begin_settling, run_id)
    assert early is not None
    place = write(sessions, prompts.settle_slice, run_id, Place(), 4, early).place
    assert place is not None
    write(sessions, prompts.change_prompts, run_id, ["dog"], [])

    assert write(sessions, prompts.settle_slice, run_id, place, 12, early) == Slice(0, None)

    assert scenario.run(sessions, run_id).unsettled
    assert settle_prompts(sessions, run_id) == 8
    scenario.work_off(sessions, run_id, 0.7)
    assert [len(scores) for *_, scores in shown(sessions, run_id)] == [3] * 12


def test_a_pass_does_not_take_up_a_run_that_is_cancelled_meanwhile(sessions: Sessions, run_id: int) -> None:
    write(sessions, prompts.change_prompts, run_id, ["hat"], [])
    settling = read(sessions, prompts.begin_settling, run_id)
    assert settling is not None
    with sessions.begin() as session:
        session.execute(update(Run).values(state="cancelled"))

    assert write(sessions, prompts.settle_slice, run_id, Place(), 12, settling) == Slice(0, None)

    assert scenario.run(sessions, run_id).state == "cancelled"
    assert read(sessions, prompts.unsettled_runs) == []
    assert settle_prompts(sessions, run_id) == 4  # of a command that takes the run up again


def test_pending_images_of_a_going_run_and_rows_that_come_later_get_all_prompts(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    held = claim(sessions, run_id)
    commit(sessions, held, [done(held.images[0], 0.9)])

    assert change_prompts(sessions, run_id, add=["hat"]) == 1
    scenario.add(sessions, run_id, rows("later.jpg"), read=8)
    scenario.finish(sessions, run_id)

    asked = []
    while (next_ := scenario.try_claim(sessions, run_id)) is not None:
        asked += [len(image.prompt_ids) for image in next_.images]
        commit_all(sessions, next_, 0.7)
    assert sorted(asked) == [1] + [2] * 8
    assert [len(scores) for *_, scores in shown(sessions, run_id)] == [2] * 9


def test_a_chunk_in_hand_is_taken_back_since_its_worker_does_not_know_the_prompt(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    outcomes = [done(image, 0.9) for image in held.images]

    change_prompts(sessions, run_id, add=["hat"])

    with pytest.raises(LeaseLost):
        commit(sessions, held, outcomes)
    assert read(sessions, claims.was_committed, held, outcomes) is None
    [chunk] = scenario.chunks(sessions, run_id)
    assert (chunk.state, chunk.attempts, chunk.crashes) == ("pending", 0, 0)
    scenario.work_off(sessions, run_id, 0.9)


def test_images_with_prompts_of_their_own_stay_as_they_are(sessions: Sessions) -> None:
    run_id = load(sessions, [*rows("a"), NewRow("b", prompts=("dog",)), NewRow("c", prompts=("hat",))])
    scenario.work_off(sessions, run_id, 0.9)

    assert change_prompts(sessions, run_id, add=["hat"]) == 1

    scenario.work_off(sessions, run_id, 0.7)
    assert [scores for *_, scores in shown(sessions, run_id)] == [[0.9, 0.7], [0.9], [0.9]]
    assert change_prompts(sessions, run_id, drop=["hat"]) == 0
    assert [scores for *_, scores in shown(sessions, run_id)] == [[0.9], [0.9], [0.9]]


def test_a_changed_file_is_computed_for_all_prompts_anew(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b"))
    held = claim(sessions, run_id)
    commit(sessions, held, [found(image, 0.9, file_size=10, file_mtime_ns=7) for image in held.images])
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    one, two = held.images
    assert one.kept is not None
    assert (one.kept.file_size, one.kept.file_mtime_ns, one.kept.width) == (10, 7, 640)
    anew = replace(one, prompt_ids=one.kept.prompt_ids)

    commit(sessions, held, [found(anew, 0.6, file_size=11, file_mtime_ns=8, width=32), found(two, 0.7)])

    assert [scores for *_, scores in shown(sessions, run_id)] == [[0.6, 0.6], [0.9, 0.7]]
    first, second = scenario.images(sessions, run_id)
    assert (first.width, first.file_size, first.adds) == (32, 11, False)
    assert (second.width, second.file_size, second.adds) == (640, 10, False)


def test_nothing_is_retried_or_redone_until_counters_have_followed_the_prompts(sessions: Sessions, run_id: int) -> None:
    ids = [image.id for image in scenario.images(sessions, run_id)]
    write(sessions, prompts.change_prompts, run_id, ["hat"], [])

    assert scenario.retry(sessions, run_id) == 0
    assert write(sessions, redo_slice, run_id, ids, read(sessions, last_chunk_before, run_id)) == 0

    settle_prompts(sessions, run_id)
    assert scenario.retry(sessions, run_id) == 1


def test_a_dropped_prompt_is_left_out_of_counters_claims_and_exports_but_its_rows_stay(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6), prompts=("person", "hat", "car"))
    held = claim(sessions, run_id)
    person, hat, car = prompts_of(sessions, run_id).values()
    brings = {person: (), hat: (0.9, 0.8), car: (0.4,)}
    commit(sessions, held, [_of(image, brings) for image in held.images])
    before = dump(sessions, person, hat, car)

    assert change_prompts(sessions, run_id, drop=["hat"]) == 0

    assert dump(sessions, person, hat, car) == before
    assert prompts_of(sessions, run_id) == {"person": person, "car": car}
    chunk = scenario.chunks(sessions, run_id)[0]
    assert (chunk.segmented, chunk.empty, chunk.instances) == (0, 4, 0)
    assert [image.prompt_ids for image in claim(sessions, run_id).images] == [(person, car)] * 2
    assert shown(sessions, run_id)[0] == ("empty", [1, 3], [0.4])  # the class keeps its number

    assert change_prompts(sessions, run_id, add=["hat"]) == 0
    assert shown(sessions, run_id)[0] == ("segmented", [1, 2, 3], [0.9, 0.8, 0.4])
    assert scenario.chunks(sessions, run_id)[0].instances == 8


def _of(image: ClaimedImage, scores: dict[int, tuple[float, ...]]) -> ImageDone:
    results = [
        PromptResult(id, 0.9, False, tuple(FoundInstance(score, (1, 2, 3, 4), 4, b"12") for score in scores[id]))
        for id in image.prompt_ids
    ]
    return ImageDone(image.id, 640, 480, tuple(results))


def test_images_that_waited_only_for_a_dropped_prompt_have_nothing_left_to_compute(
    sessions: Sessions, run_id: int
) -> None:
    before = shown(sessions, run_id)
    change_prompts(sessions, run_id, add=["hat"])
    change_prompts(sessions, run_id, drop=["hat"])

    held = claim(sessions, run_id)
    assert [image.prompt_ids for image in held.images] == [()] * 4
    commit_all(sessions, held)

    assert shown(sessions, run_id) == before
    assert scenario.run(sessions, run_id).state == "done"


def test_copies_are_looked_up_by_the_prompts_that_were_computed_last(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b"))
    held = claim(sessions, run_id)
    commit(sessions, held, [found(image, 0.9, content=b"person") for image in held.images])
    change_prompts(sessions, run_id, add=["hat"])
    held = claim(sessions, run_id)
    one, two = held.images
    assert read(sessions, done_before, run_id, [b"hat"]) == {}

    commit(sessions, held, [found(one, 0.7, content=b"hat")])

    hat = prompts_of(sessions, run_id)["hat"]
    assert read(sessions, done_before, run_id, [b"hat"])[b"hat"].results[hat].instances[0].score == 0.7
    commit(sessions, held, [found(two, 0.7, content=b"hat")])


@pytest.mark.parametrize("state", ["loading", "cancelling", "deleting"])
def test_the_prompts_of_a_run_in_other_hands_stay_as_they_are(sessions: Sessions, run_id: int, state: str) -> None:
    with sessions.begin() as session:
        session.execute(update(Run).values(state=state, finished_at=None))

    assert not write(sessions, prompts.change_prompts, run_id, ["hat"], [])

    with sessions.begin() as session:
        assert session.execute(select(func.count()).select_from(Prompt)).scalar_one() == 1
        session.execute(update(Run).values(state="done", finished_at=1.0))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_claim_that_is_not_committed_yet_and_a_change_never_miss_each_other(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    write(sessions, doorbells.ring_pending, run_id, 1)
    [chunk] = scenario.chunks(sessions, run_id)
    worker = scenario.worker(sessions)
    with sessions() as early:  # it has read the prompts, and commits while the change waits for it
        held = claims.claim(early, run_id, chunk.id, worker)
        assert isinstance(held, Claim)
        with sessions() as late:
            late.connection().exec_driver_sql("SET LOCAL lock_timeout = '200ms'")
            with pytest.raises(OperationalError, match="lock timeout"):
                prompts.change_prompts(late, run_id, ["hat"], [])
        early.commit()

    change_prompts(sessions, run_id, add=["hat"])

    with pytest.raises(LeaseLost):
        commit_all(sessions, held, 0.9)
