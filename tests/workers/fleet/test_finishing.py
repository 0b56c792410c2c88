"""What killed commands left half done is finished by the reconciler."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import named_leases, prompts
from db.models import Image, Run
from db.runs import begin_delete, cancel_run
from db.session import Sessions, reading, write
from tests.db import scenario
from tests.workers.fleet.reconciling import Other, on_sqlite
from workers.fleet.reconcile import Reconciler


@on_sqlite
@pytest.mark.parametrize("holder", ["nobody", "a dead command", "a living command"])
def test_a_change_of_prompts_is_finished_in_rounds_unless_its_command_lives(
    reconciler: Reconciler, sessions: Sessions, other: Other, holder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = scenario.load(sessions, scenario.numbered(12))
    scenario.work_off(sessions, run_id, 0.9)
    write(sessions, prompts.change_prompts, run_id, ["hat"], [])
    if holder != "nobody":
        write(sessions, named_leases.acquire_lease, named_leases.load_lease(run_id), other.identity, 60.0)
    if holder == "a dead command":
        other.kill()
    monkeypatch.setattr("db.slices.slice_rows", lambda sessions: 4)
    monkeypatch.setattr("workers.fleet.reconcile.FINISHING_SHARE", 0.0)  # each round has time for one slice

    reconciler.step()

    assert scenario.states(sessions, run_id).count("pending") == (0 if holder == "a living command" else 4)
    reconciler.step()
    reconciler.step()
    assert scenario.run(sessions, run_id).unsettled == (holder == "a living command")


def test_what_a_killed_cancel_left_is_finished_part_by_part(
    reconciler: Reconciler, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 4)
    run_id = scenario.load(sessions, scenario.numbered(20))
    reconciler._settings = reconciler._settings.model_copy(update={"reconcile_seconds": 0.0})
    scenario.begin_cancel(sessions, run_id, chunks=1)
    reconciler.step()
    assert scenario.states(sessions, run_id) == ["cancelled"] * 8 + ["pending"] * 12
    assert scenario.run(sessions, run_id).state == "cancelling"
    for _ in range(3):
        assert scenario.run(sessions, run_id).finished_at is None
        reconciler.step()
    assert set(scenario.states(sessions, run_id)) == {"cancelled"}
    assert scenario.run(sessions, run_id).state == "cancelled"


def test_what_a_killed_delete_left_is_finished_and_nothing_else_is_touched(
    reconciler: Reconciler, sessions: Sessions
) -> None:
    rows = [*scenario.numbered(10), *scenario.numbered(2), scenario.REJECTED]
    kept, deleted = scenario.load(sessions, rows, "kept"), scenario.load(sessions, rows)
    scenario.begin_delete(sessions, deleted, chunks=1)
    reconciler.step()
    with reading(sessions) as session:
        assert session.execute(select(Run.id)).scalars().all() == [kept]
        assert session.execute(select(func.count()).where(Image.run_id == deleted)).scalar_one() == 0
    assert len(scenario.states(sessions, kept)) == 13


@pytest.mark.parametrize("begin", [cancel_run, begin_delete], ids=["cancel", "delete"])
def test_a_reconciler_and_a_living_command_finish_the_same_run_together(
    reconciler: Reconciler, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Session, int], object]
) -> None:
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 8)
    run_id = scenario.load(sessions, [*scenario.numbered(200), *scenario.numbered(20)])
    write(sessions, begin, run_id)
    start = threading.Barrier(2)

    def both(work: Callable[[], object]) -> None:
        start.wait()
        work()

    finish = scenario.cancel if begin is cancel_run else scenario.delete
    with ThreadPoolExecutor(2) as threads:
        told = [
            threads.submit(both, work)
            for work in (lambda: finish(sessions, run_id), lambda: [reconciler.step() for _ in range(5)])
        ]
        for one in told:
            one.result(60)
    with reading(sessions) as session:
        left = session.execute(select(Run.state)).scalars().all()
    assert left == (["cancelled"] if begin is cancel_run else [])
    assert not set(scenario.states(sessions, run_id)) - {"cancelled", "duplicate"}
