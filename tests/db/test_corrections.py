"""Other settings for a run without results, while workers claim and commit at the same moment. On both databases."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from threading import Barrier, Event
from typing import Any

import pytest
from sqlalchemy.orm import Session

from db import claims, corrections, doorbells, intake
from db.chunks import ClaimedMeanwhile
from db.claims import Claim, LeaseLost, ModelUsed
from db.corrections import HasResults, has_results
from db.intake import NewRow
from db.session import Sessions, read, reading, write
from db.views.run_views import RunView, run_view
from tests.db import scenario
from tests.db.scenario import claim, done, failed, load, numbered

OTHER = replace(scenario.FROZEN, model="facebook/sam3", threshold=0.7)
MINE, THEIRS = ModelUsed(None, "a" * 64, "fp32", compiled=True), ModelUsed(None, "b" * 64, "fp32")


def view(sessions: Sessions, run_id: int) -> RunView:
    found = read(sessions, run_view, run_id)
    assert found is not None
    return found


def correct(sessions: Sessions, run: RunView, *prompts: str) -> None:
    write(sessions, corrections.correct, run.id, run.uid, OTHER, prompts or ("dog", "cat"))


def test_settings_prompts_and_model_are_those_that_are_asked_for(sessions: Sessions) -> None:
    before = view(sessions, load(sessions, numbered(6)))
    write(sessions, claims.agree_on_model, before.id, MINE, before.uid)

    correct(sessions, before)

    run = view(sessions, before.id)
    assert (run.frozen.model, run.frozen.threshold) == ("facebook/sam3", 0.7)
    assert (run.weights_sha256, run.dtype, run.compiled) == (None, None, None)
    assert [run.prompts[prompt_id] for prompt_id in run.every_image] == ["dog", "cat"]
    assert run.uid != before.uid
    assert scenario.states(sessions, run.id) == ["pending"] * 6


def test_prompts_that_rows_brought_stay_theirs(sessions: Sessions) -> None:
    rows = [NewRow("a.jpg"), NewRow("b.jpg", None, ("person", "tree")), NewRow("c.jpg", None, ("dog",))]
    source = replace(scenario.SOURCE, prompt_column="what")
    run_id = write(sessions, intake.create_run, "faces", source, scenario.FROZEN, ("person",), 4)
    scenario.add(sessions, run_id, rows)
    scenario.finish(sessions, run_id)
    before = view(sessions, run_id)
    correct(sessions, before, "dog")
    asked = {image.path: image.prompt_ids for image in claim(sessions, before.id).images}
    run = view(sessions, before.id)
    told = {path: [run.prompts[prompt_id] for prompt_id in ids] for path, ids in asked.items()}
    assert told == {"a.jpg": ["dog"], "b.jpg": ["person", "tree"], "c.jpg": ["dog"]}


def test_the_prompt_that_stands_for_boxes_stays_with_its_rows(sessions: Sessions) -> None:
    source = replace(scenario.SOURCE, box_column="boxes")
    run_id = write(sessions, intake.create_run, "faces", source, scenario.FROZEN, (), 4)
    scenario.add(sessions, run_id, [NewRow("a.jpg", prompts=("visual",), boxes=((1.0, 2.0, 3.0, 4.0, True),))])
    scenario.finish(sessions, run_id)
    correct(sessions, view(sessions, run_id), "dog")
    [image] = claim(sessions, run_id).images
    assert [view(sessions, run_id).prompts[id] for id in image.prompt_ids] == ["visual"]


def test_a_chunk_that_rests_after_a_fault_goes_on_at_once(sessions: Sessions) -> None:
    run = view(sessions, load(sessions, numbered(2)))
    held = claim(sessions, run.id)
    write(sessions, claims.fail_attempt, held, "the wrong model")
    assert scenario.rests_for(sessions, held.chunk_id) > 0
    correct(sessions, run)
    chunk = scenario.chunk(sessions, held.chunk_id)
    assert (chunk.state, chunk.not_before, chunk.error, chunk.attempts) == ("pending", None, None, 0)
    assert len(claim(sessions, run.id).images) == 2


def test_what_is_claimed_under_the_old_settings_can_commit_nothing(sessions: Sessions) -> None:
    run = view(sessions, load(sessions, numbered(2)))
    held = claim(sessions, run.id)
    correct(sessions, run)
    assert not write(sessions, claims.heartbeat, held)
    with pytest.raises(LeaseLost):
        scenario.commit_all(sessions, held, 0.9)
    again = claim(sessions, run.id)
    with pytest.raises(LeaseLost):  # also when somebody holds the chunk under the new ones
        scenario.commit_all(sessions, held, 0.9)
    assert scenario.commit_all(sessions, again, 0.9)


def test_a_worker_that_read_the_old_settings_neither_claims_nor_freezes_its_model(sessions: Sessions) -> None:
    old = view(sessions, load(sessions, numbered(2)))
    correct(sessions, old)
    [rung] = write(sessions, doorbells.ring_pending, old.id, 9)
    assert write(sessions, claims.agree_on_model, old.id, MINE, old.uid) is None
    assert write(sessions, claims.claim, old.id, rung.chunk_id, 1, 60, old.uid) is None
    new = view(sessions, old.id)
    assert write(sessions, claims.agree_on_model, new.id, THEIRS, new.uid) == THEIRS
    assert write(sessions, claims.claim, new.id, rung.chunk_id, 1, 60, new.uid) is not None


def test_a_run_with_a_result_keeps_its_settings(sessions: Sessions) -> None:
    run = view(sessions, load(sessions, numbered(6)))
    held = claim(sessions, run.id)
    scenario.commit(sessions, held, [failed(held.images[0])])
    assert not read(sessions, has_results, run.id)
    scenario.commit(sessions, held, [done(held.images[1])])  # nothing found is a result too
    assert read(sessions, has_results, run.id)
    with pytest.raises(HasResults):
        correct(sessions, run)
    assert view(sessions, run.id) == run
    assert scenario.chunk(sessions, held.chunk_id).state == "running"
    assert scenario.commit(sessions, held, [done(image, 0.9) for image in held.images[2:]])


def test_of_two_corrections_at_once_the_later_one_does_not_win_unseen(sessions: Sessions) -> None:
    run = view(sessions, load(sessions, numbered(2)))
    correct(sessions, run)
    with pytest.raises(HasResults):
        correct(sessions, run)


def overlapping(first: Callable[[], Any], second: Callable[[], Any], held: Event) -> tuple[Any, Any]:
    """Run `second` from the moment on when `first`, which sets `held`, has its locks."""
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(first)
        assert held.wait(30)
        other = threads.submit(second)
        return one.result(60), other.result(60)


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (HasResults, LeaseLost) as error:
        return type(error)


def held_open(sessions: Sessions, held: Event, work: Callable[..., Any], *given: Any) -> Any:
    """Do the work, and end its transaction a while after the other one began."""
    with sessions.begin() as session:
        value = work(session, *given)
        held.set()
        time.sleep(0.3)  # for the other one to run into our locks; should it be later, nothing else comes out
        return value


def test_a_commit_that_is_under_way_is_waited_for_and_then_refuses_the_correction(sessions: Sessions) -> None:
    run = view(sessions, load(sessions, numbered(2)))
    claimed, held = claim(sessions, run.id), Event()
    found = [done(image, 0.9) for image in claimed.images]
    finished, corrected = overlapping(
        lambda: held_open(sessions, held, claims.commit, claimed, found),
        lambda: outcome(lambda: correct(sessions, run)),
        held,
    )
    assert (finished, corrected) == (claims.Next.NOTHING, HasResults)
    assert view(sessions, run.id).frozen.model == run.frozen.model


def corrected_and_rung(session: Session, run_id: int, uid: str) -> None:
    corrections.correct(session, run_id, uid, OTHER, ("dog",))
    doorbells.ring_pending(session, run_id, 9)


def test_a_claim_that_waits_for_a_correction_gets_nothing_of_a_chunk_that_was_rung_since(sessions: Sessions) -> None:
    run, held = view(sessions, load(sessions, numbered(2))), Event()
    [rung] = write(sessions, doorbells.ring_pending, run.id, 9)
    _, claimed = overlapping(
        lambda: held_open(sessions, held, corrected_and_rung, run.id, run.uid),
        lambda: write(sessions, claims.claim, run.id, rung.chunk_id, 1, 60, run.uid),
        held,
    )
    assert claimed is None
    chunk, now = scenario.chunk(sessions, rung.chunk_id), view(sessions, run.id)
    assert (now.frozen, now.uid == run.uid) == (OTHER, False)
    assert chunk.state in ("queued", "pending")
    assert chunk.attempts == 0


@pytest.mark.parametrize("late", ["claim", "commit"])
def test_a_claim_or_commit_that_comes_while_the_correction_is_under_way_gets_nothing(
    sessions: Sessions, late: str
) -> None:
    run, held = view(sessions, load(sessions, numbered(2))), Event()
    [rung] = write(sessions, doorbells.ring_pending, run.id, 9)

    def ask() -> Claim | None:
        return write(sessions, claims.claim, run.id, rung.chunk_id, 1, 60, run.uid)

    claimed = ask() if late == "commit" else None
    _, got = overlapping(
        lambda: held_open(sessions, held, corrections.correct, run.id, run.uid, OTHER, ("dog",)),
        lambda: outcome(lambda: ask() if claimed is None else scenario.commit_all(sessions, claimed, 0.9)),
        held,
    )
    assert got is (None if late == "claim" else LeaseLost)
    assert scenario.states(sessions, run.id) == ["pending", "pending"]


def test_workers_and_corrections_at_the_same_time_mix_no_settings(sessions: Sessions) -> None:
    """Each worker does as the task does: reads the run, claims by what it read, and commits one image at a time."""
    run_id = load(sessions, numbered(40), chunk_size=2)
    start = Barrier(3)
    used: set[str] = set()

    def work(worker_id: int) -> None:  # of one worker a second claim of the same chunk would be its first one again
        start.wait(30)
        while (run := view(sessions, run_id)).state == "active":
            rung = write(sessions, doorbells.ring_pending, run_id, 1)
            if not rung:  # the other worker has the last one, or a correction has all of them
                continue
            held = write(sessions, claims.claim, run_id, rung[0].chunk_id, worker_id, 60, run.uid)
            if held is None:
                write(sessions, doorbells.unqueue, rung[0].chunk_id)
                continue
            with suppress(LeaseLost):
                for image in held.images:
                    scenario.commit(sessions, held, [done(image, 0.9)])
                    used.add(run.frozen.model)

    def change() -> Any:
        start.wait(30)
        return outcome(lambda: correct(sessions, view(sessions, run_id)))

    with ThreadPoolExecutor(3) as threads:
        ends = [threads.submit(work, 1), threads.submit(work, 2), threads.submit(change)]
        corrected = [end.result(60) for end in ends][-1]
    model = view(sessions, run_id).frozen.model
    assert model == ("facebook/sam3" if corrected is None else "tiny")
    assert used == {model}
    assert set(scenario.states(sessions, run_id)) == {"done"}


def test_a_chunk_that_began_to_run_unseen_makes_it_try_again(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = view(sessions, load(sessions, numbered(2)))
    claim(sessions, run.id)
    monkeypatch.setattr("db.corrections.change_chunks", lambda *_, **__: 0)  # as if it had been added meanwhile
    with pytest.raises(ClaimedMeanwhile):
        correct(sessions, run)
    assert view(sessions, run.id) == run


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_asking_for_results_looks_at_no_image_of_a_run_that_has_none(sessions: Sessions) -> None:
    """Counted in steps of SQLite's machine: a hundred times the images cost the same."""
    few = load(sessions, numbered(20), name="few", chunk_size=2000)
    many = load(sessions, numbered(2000), name="many", chunk_size=2000)
    assert steps(sessions, many) < 2 * steps(sessions, few)


def steps(sessions: Sessions, run_id: int) -> int:
    counted: list[int] = []
    with reading(sessions) as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(lambda: counted.append(1), 10)
        assert not has_results(session, run_id)
        driver.set_progress_handler(None, 0)
    return len(counted)
