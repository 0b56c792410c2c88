"""When --stop-after pauses a run, on SQLite and on PostgreSQL."""

from functools import partial

import pytest
from sqlalchemy import event

from db import budgets, claims, steering
from db.claimed import ClaimedImage
from db.outcomes import Outcome
from db.session import Sessions, read, write
from db.values import StopRule
from tests.db import scenario
from tests.db.scenario import claim, done, failed, load, numbered


def rule(sessions: Sessions, run_id: int, *rules: str) -> None:
    write(sessions, partial(steering.steer, stop_after=[str(StopRule.read(text)) for text in rules]), run_id)


def ended(image: ClaimedImage, how: str) -> Outcome:
    return failed(image) if how == "f" else done(image, *([0.9] if how == "g" else []))


def work(sessions: Sessions, run_id: int, outcomes: str) -> None:
    """Claim the next chunks and end their images one after the other: g is good, e empty, f failed."""
    while outcomes:
        held = claim(sessions, run_id)
        batch = [ended(image, how) for how, image in zip(outcomes, held.images, strict=False)]
        scenario.commit(sessions, held, batch)
        if len(batch) < len(held.images):
            write(sessions, claims.release, held)
        outcomes = outcomes[len(batch) :]


def stop(sessions: Sessions, run_id: int) -> str | None:
    return write(sessions, budgets.stop, run_id)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("5% failed", StopRule(5, "failed", 500)),
        ("98 %  empty of 20", StopRule(98, "empty", 20)),
        ("0.5% failed of 1000", StopRule(0.5, "failed", 1000)),
    ],
)
def test_a_rule_is_read_as_it_is_written(text: str, means: StopRule) -> None:
    assert StopRule.read(text) == means
    assert StopRule.read(str(means)) == means


@pytest.mark.parametrize(
    "text", ["", "5", "5%", "5% bad", "0% failed", "101% failed", "5% failed of 0", "5% empty of x"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"'5% failed'|more than 0"):
        StopRule.read(text)


def test_a_run_stops_at_its_budget_and_not_before(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(100), chunk_size=10)
    rule(sessions, run_id, "10% failed of 20")
    work(sessions, run_id, "gggggggggf")
    assert stop(sessions, run_id) is None

    work(sessions, run_id, "fggggggggg")

    why = "as 2 of the latest 20 images failed (--stop-after '10% failed of 20')"
    assert stop(sessions, run_id) == why
    assert scenario.run(sessions, run_id).paused == why
    assert budgets.stopped_by(why) == "failed"
    assert stop(sessions, run_id) is None  # it is paused already
    assert scenario.try_claim(sessions, run_id) is None


def test_a_run_that_nothing_can_save_stops_before_the_rule_has_seen_all_its_images(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(1000), chunk_size=25)
    rule(sessions, run_id, "5% failed")

    work(sessions, run_id, "f" * 25)

    assert stop(sessions, run_id) == "as 25 of the latest 25 images failed (--stop-after '5% failed of 500')"


def test_a_share_that_is_no_binary_number_is_counted_exactly(sessions: Sessions) -> None:
    assert 500 * 32.2 / 100 > 161  # as binary numbers
    run_id = load(sessions, numbered(500), chunk_size=200)
    rule(sessions, run_id, "32.2% failed")

    work(sessions, run_id, "f" * 161 + "g" * 39)

    assert stop(sessions, run_id) == "as 161 of the latest 200 images failed (--stop-after '32.2% failed of 500')"


def test_a_small_run_counts_by_its_own_size(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(20), chunk_size=10)
    rule(sessions, run_id, "10% failed")
    work(sessions, run_id, "fggggggggg")
    assert stop(sessions, run_id) is None

    work(sessions, run_id, "fgggggggg")

    assert stop(sessions, run_id) is None  # one image of the chunk is left, so that it waits, and is not looked at
    work(sessions, run_id, "g")
    assert scenario.run(sessions, run_id).state == "done"
    assert stop(sessions, run_id) is None


def test_old_failures_are_forgotten_behind_enough_good_images(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(100), chunk_size=10)
    work(sessions, run_id, "ffffffffff" + "g" * 20)
    rule(sessions, run_id, "10% failed of 20")

    assert stop(sessions, run_id) is None


def test_empty_images_are_counted_apart_from_failed_ones(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(100), chunk_size=10)
    rule(sessions, run_id, "50% failed of 10", "100% empty of 20")
    work(sessions, run_id, "e" * 10 + "eeeeefeeee")
    assert stop(sessions, run_id) is None

    work(sessions, run_id, "e" * 20)

    why = stop(sessions, run_id)
    assert why == "as 20 of the latest 20 images are empty (--stop-after '100% empty of 20')"
    assert budgets.stopped_by(why) == "empty"


def test_after_a_resume_it_counts_anew(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(100), chunk_size=10)
    rule(sessions, run_id, "50% failed of 10")
    work(sessions, run_id, "f" * 10)
    assert stop(sessions, run_id)

    write(sessions, steering.resume, run_id)

    assert stop(sessions, run_id) is None
    work(sessions, run_id, "gggggggggg")
    assert stop(sessions, run_id) is None
    work(sessions, run_id, "f" * 10)
    assert stop(sessions, run_id) == "as 10 of the latest 10 images failed (--stop-after '50% failed of 10')"


def test_images_that_are_retried_count_again(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(30), chunk_size=10)
    rule(sessions, run_id, "100% failed of 10")
    work(sessions, run_id, "f" * 10)
    assert stop(sessions, run_id)
    scenario.retry(sessions, run_id)
    write(sessions, steering.resume, run_id)

    work(sessions, run_id, "g" * 20 + "f" * 10)

    assert scenario.run(sessions, run_id).state == "done"
    assert stop(sessions, run_id) is None  # a run that is over is not paused


def test_without_a_rule_nothing_is_counted(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(20), chunk_size=10)
    work(sessions, run_id, "f" * 10)

    assert stop(sessions, run_id) is None

    rule(sessions, run_id, "1% failed")
    assert stop(sessions, run_id)


def test_looking_costs_two_statements_however_many_chunks_there_are(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(60), chunk_size=2)
    rule(sessions, run_id, "50% failed of 10")
    work(sessions, run_id, "g" * 40)
    sent: list[str] = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", lambda *args: sent.append(args[2]))

    assert read(sessions, budgets.exceeded, run_id) is None

    assert len([one for one in sent if "FROM run" in one or "FROM chunk" in one]) == 2


def test_reasons_of_other_pauses_are_no_budgets() -> None:
    assert budgets.stopped_by(steering.BY_HAND) is None
