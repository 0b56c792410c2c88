"""Of several reconcilers one acts, until it dies, is silent or stops."""

import threading

from db import named_leases
from db.presence import Process
from db.session import Sessions, write
from tests.db import scenario
from tests.terminals import PATIENCE, wait_until
from tests.workers.fleet.reconciling import Other, claimed_by, holder, on_sqlite, start
from workers.fleet.processes import this_process
from workers.fleet.reconcile import LEASE


@on_sqlite
def test_one_reconciler_acts_at_a_time(sessions: Sessions, broker_url: str, other: Other) -> None:
    first, second = start(sessions, broker_url, other.identity), start(sessions, broker_url)
    assert first.step()
    assert not second.step()
    assert first.step()


@on_sqlite
def test_a_dead_leader_of_this_machine_is_replaced_at_once(sessions: Sessions, broker_url: str, other: Other) -> None:
    first, second = start(sessions, broker_url, other.identity), start(sessions, broker_url)
    assert first.step()
    other.kill()
    assert second.step()


@on_sqlite
def test_a_silent_leader_of_another_machine_is_replaced_when_its_lease_is_over(
    sessions: Sessions, broker_url: str
) -> None:
    far = Process("elsewhere", "boot", 1, 7)
    second = start(sessions, broker_url)
    write(sessions, named_leases.acquire_lease, LEASE, far, 45.0)
    assert not second.step()
    write(sessions, named_leases.acquire_lease, LEASE, far, -1.0)
    assert second.step()


@on_sqlite
def test_a_leader_that_stops_looks_once_more_and_hands_over(sessions: Sessions, broker_url: str, other: Other) -> None:
    run_id = scenario.load(sessions, scenario.numbered(4))
    claim = claimed_by(sessions, run_id, other.identity)
    leader, next_one = start(sessions, broker_url), start(sessions, broker_url, Process("elsewhere", "boot", 1, 7))
    stop = threading.Event()
    running = threading.Thread(target=leader.run, args=(stop,))
    running.start()
    wait_until(lambda: holder(sessions) == this_process(), "the leader")
    assert not next_one.step()
    other.kill()
    stop.set()
    running.join(PATIENCE)
    assert scenario.chunk(sessions, claim.chunk_id).state in ("pending", "queued")
    assert next_one.step()
