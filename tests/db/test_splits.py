"""Which images a second crash singles out, and what becomes of their neighbours."""

from collections.abc import Sequence

import pytest

from db import claims, runs
from db.claims import Claim, LeaseLost, Next
from db.outcomes import Outcome
from db.session import Sessions, write
from tests.db import scenario


def crash(sessions: Sessions, held: Claim, first: int | None = None, last: int | None = None) -> None:
    """The owner dies with these rows in hand."""
    if first is not None and last is not None:
        write(sessions, claims.begin_range, held, first, last)
    assert scenario.take_back(sessions, held)


def rows_by_chunk(sessions: Sessions, run_id: int) -> dict[int, list[int]]:
    """Rows that are pending, by the number of their chunk."""
    numbers = {chunk.id: chunk.number for chunk in scenario.chunks(sessions, run_id)}
    found: dict[int, list[int]] = {}
    for image in scenario.images(sessions, run_id):
        if image.state == "pending":
            found.setdefault(numbers[image.chunk_id or 0], []).append(image.row)
    return found


def counters(sessions: Sessions, run_id: int) -> dict[int, tuple[str, int, int, int]]:
    return {
        chunk.number: (chunk.state, chunk.images, chunk.attempts, chunk.crashes)
        for chunk in scenario.chunks(sessions, run_id)
    }


def test_after_a_crash_a_chunk_is_claimed_to_be_worked_off_serially(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    first = scenario.claim(sessions, run_id)
    assert not first.serial
    crash(sessions, first)
    second = scenario.claim(sessions, run_id)
    assert second.serial
    scenario.commit(sessions, second, [scenario.done(second.images[0])])
    write(sessions, claims.release, second)
    assert not scenario.claim(sessions, run_id).serial  # a commit came after the crash


def test_the_rows_in_hand_at_the_second_crash_become_two_chunks_and_the_rest_goes_on_at_once(
    sessions: Sessions,
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(10), chunk_size=10)
    crash(sessions, scenario.claim(sessions, run_id))
    crash(sessions, scenario.claim(sessions, run_id), 4, 6)
    assert rows_by_chunk(sessions, run_id) == {1: [1, 2, 3, 7, 8, 9, 10], 2: [4, 5], 3: [6]}
    assert counters(sessions, run_id) == {1: ("pending", 7, 0, 0), 2: ("pending", 2, 0, 0), 3: ("pending", 1, 0, 0)}
    first, *new = scenario.chunks(sessions, run_id)
    assert {chunk.parent_id for chunk in new} == {first.id}
    assert all(scenario.rests_for(sessions, chunk.id) == 0 for chunk in (first, *new))
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.run(sessions, run_id).state == "done"


def test_a_single_suspect_among_others_gets_a_chunk_of_its_own_and_a_fair_trial(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(3), chunk_size=3)
    for _ in range(2):
        crash(sessions, scenario.claim(sessions, run_id), 2, 2)
    assert rows_by_chunk(sessions, run_id) == {1: [1, 3], 2: [2]}
    scenario.work_off(sessions, run_id, 0.9)
    assert set(scenario.states(sessions, run_id)) == {"done"}


@pytest.mark.parametrize(("crashed", "error_class"), [(True, "crashed"), (False, "gave_up")])
def test_an_image_alone_that_takes_its_process_twice_has_failed(
    sessions: Sessions, crashed: bool, error_class: str
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(1))
    for _ in range(2):
        held = scenario.claim(sessions, run_id)
        write(sessions, claims.begin_range, held, 1, 1)
        scenario.take_back(sessions, held, crashed=crashed)
    [image] = scenario.images(sessions, run_id)
    assert (image.state, image.error_class) == ("failed", error_class)
    assert scenario.run(sessions, run_id).state == "done"


def find_guilty(sessions: Sessions, run_id: int, guilty: Sequence[int], batch: int) -> int:
    """Work everything off as workers do, dying whenever a guilty row is in hand; return how often that was."""
    deaths = 0
    while (held := scenario.try_claim(sessions, run_id)) is not None:
        for start in range(0, len(held.images), batch):
            part = held.images[start : start + batch]
            if held.serial:
                write(sessions, claims.begin_range, held, part[0].row, part[-1].row)
            if any(image.row in guilty for image in part):
                crash(sessions, held)
                deaths += 1
                break
            scenario.commit(sessions, held, [scenario.done(image, 0.9) for image in part])
    return deaths


@pytest.mark.parametrize("guilty", [[1], [64], [30], [1, 64], [33, 34], [8, 9, 40]])
def test_the_guilty_are_found_and_nobody_else_and_it_costs_few_deaths(sessions: Sessions, guilty: list[int]) -> None:
    run_id = scenario.load(sessions, scenario.numbered(64), chunk_size=64)
    deaths = find_guilty(sessions, run_id, guilty, batch=8)
    failed = {image.row: image.error_class for image in scenario.images(sessions, run_id) if image.state == "failed"}
    assert failed == dict.fromkeys(guilty, "crashed")
    assert deaths <= len(guilty) * (2 * (1 + 3) + 1)
    assert scenario.run(sessions, run_id).state == "done"


def test_images_that_are_done_are_not_suspects(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    crash(sessions, scenario.claim(sessions, run_id))
    held = scenario.claim(sessions, run_id)
    scenario.commit(sessions, held, [scenario.done(held.images[0]), scenario.done(held.images[1])])
    crash(sessions, held, 3, 4)
    crash(sessions, scenario.claim(sessions, run_id), 1, 4)
    assert rows_by_chunk(sessions, run_id) == {2: [3], 3: [4]}
    assert counters(sessions, run_id)[1] == ("done", 2, 0, 0)


def test_crashes_without_a_known_range_wait_and_then_give_up(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2))
    waits = []
    for _ in range(claims.MAX_ATTEMPTS):
        held = scenario.claim(sessions, run_id)
        crash(sessions, held)
        waits.append(scenario.rests_for(sessions, held.chunk_id))
        scenario.rest_is_over(sessions, held.chunk_id)
    assert waits == [0, 10, 20, 40, 0]
    assert {(image.state, image.error_class) for image in scenario.images(sessions, run_id)} == {("failed", "crashed")}


@pytest.mark.parametrize("end", ["commit", "release", "fail_attempt", "claim"])
def test_a_range_is_forgotten_once_it_is_out_of_hand(sessions: Sessions, end: str) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    held = scenario.claim(sessions, run_id)
    write(sessions, claims.begin_range, held, 1, 2)
    if end == "commit":
        scenario.commit(sessions, held, [scenario.done(held.images[0])])
    elif end == "release":
        write(sessions, claims.release, held)
    elif end == "fail_attempt":
        write(sessions, claims.fail_attempt, held, "a bug")
    else:
        crash(sessions, held)
        scenario.claim(sessions, run_id)
    chunk = scenario.chunk(sessions, held.chunk_id)
    assert (chunk.inflight_first, chunk.inflight_last) == (None, None)


def test_a_range_is_refused_to_whoever_lost_the_chunk(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    held = scenario.claim(sessions, run_id)
    crash(sessions, held)
    with pytest.raises(LeaseLost):
        write(sessions, claims.begin_range, held, 1, 2)


def test_a_cancelled_run_is_not_split_so_that_nothing_of_it_is_left_behind(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    crash(sessions, scenario.claim(sessions, run_id))
    held = scenario.claim(sessions, run_id)
    write(sessions, claims.begin_range, held, 1, 4)
    write(sessions, runs.cancel_run, run_id)
    crash(sessions, held)
    assert len(scenario.chunks(sessions, run_id)) == 1
    scenario.cancel(sessions, run_id)
    assert set(scenario.states(sessions, run_id)) == {"cancelled"}


def test_a_claim_whose_answer_was_lost_is_given_again_to_its_owner_only(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    mine, other = scenario.worker(sessions, 1), scenario.worker(sessions, 2)
    held = scenario.claim(sessions, run_id, worker_id=mine)
    assert write(sessions, claims.claim, run_id, held.chunk_id, other) is None
    again = write(sessions, claims.claim, run_id, held.chunk_id, mine)
    assert again is not None
    assert again.images == held.images
    assert scenario.chunk(sessions, held.chunk_id).attempts == 1
    assert scenario.commit_all(sessions, again)
    assert write(sessions, claims.claim, run_id, held.chunk_id, mine) is None


def test_what_a_commit_left_behind_is_told_from_what_it_did_not(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    held = scenario.claim(sessions, run_id)
    first: list[Outcome] = [scenario.done(held.images[0]), scenario.failed(held.images[1])]
    rest: list[Outcome] = [scenario.done(held.images[2]), scenario.failed(held.images[3])]
    assert write(sessions, claims.was_committed, held, first) is None
    scenario.commit(sessions, held, first)
    assert write(sessions, claims.was_committed, held, first) is Next.GO_ON
    assert write(sessions, claims.was_committed, held, [*first, *rest]) is None
    scenario.commit(sessions, held, rest)
    assert write(sessions, claims.was_committed, held, rest) is Next.NOTHING


def test_what_a_later_claim_committed_is_not_taken_for_ours(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2))
    old = scenario.claim(sessions, run_id)
    crash(sessions, old)
    new = scenario.claim(sessions, run_id)
    scenario.commit_all(sessions, new, 0.9)
    assert write(sessions, claims.was_committed, old, [scenario.done(image, 0.9) for image in old.images]) is None
    assert write(sessions, claims.was_committed, old, [scenario.failed(old.images[0])]) is None
