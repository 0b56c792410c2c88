"""Processes that die, stop, go on too late or never start: somebody else finishes, once."""

import os
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db import claims
from db.models import Worker
from db.session import Sessions, read, write
from tests.db import scenario
from tests.fakes import HANGS
from tests.integration.faults import farm
from tests.integration.processes import is_gone, parent_of
from tests.terminals import Terminal, wait_until
from tests.workers import runs

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

IMAGES = 64


@pytest.fixture
def run_id(sessions: Sessions, tmp_path: Path) -> int:
    return farm.load(sessions, tmp_path / "in", IMAGES)


def test_a_child_killed_in_its_forward_pass_costs_one_attempt(here: Terminal, sessions: Sessions, run_id: int) -> None:
    worker = farm.start(here, "one", "--until-empty", slow=0.1)
    farm.some_results(sessions)
    os.kill(farm.busy_child(sessions), signal.SIGKILL)
    worker.wait()
    farm.check(sessions, run_id)
    assert farm.forwards(here) <= IMAGES + 2 * 4 + 3  # at most the batches in hand again, and the self-tests


def test_a_machine_that_dies_is_taken_over_by_another(here: Terminal, sessions: Sessions, run_id: int) -> None:
    first = farm.start(here, "one", slow=0.1)
    farm.some_results(sessions)
    child = farm.busy_child(sessions)
    first.kill_group()
    wait_until(lambda: is_gone(child), "the end of its node")
    farm.start(here, "two", "--until-empty").wait()
    farm.check(sessions, run_id)


@pytest.mark.parametrize("failpoint", ["killed_after_a_commit", "killed_before_a_commit"])
def test_a_child_killed_beside_its_commit_repeats_nothing_that_is_in(
    here: Terminal, sessions: Sessions, run_id: int, failpoint: str
) -> None:
    farm.start(here, "one", "--until-empty", FAKE_FAILPOINT=failpoint).wait()
    assert (Path(here.environment["FAKE_MARKERS"]) / failpoint).exists()
    farm.check(sessions, run_id)
    again = 0 if failpoint == "killed_after_a_commit" else 3 * 4  # in hand: one batch in each stage
    assert IMAGES + 2 <= farm.forwards(here) <= IMAGES + 2 + again


def test_a_doorbell_that_dies_between_the_broker_and_its_node_is_rung_again(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """The node takes the message while it stands still, and is killed before it can do anything with it."""
    worker = farm.start(here, "one")
    wait_until(lambda: "ready" in worker.output() or farm.descendants(worker.process.pid), "the node")
    workers = lambda: read(sessions, lambda session: session.query(Worker).count())  # noqa: E731
    wait_until(workers, "the child")
    node = next(pid for pid in farm.descendants(worker.process.pid) if parent_of(pid) == worker.process.pid)
    os.kill(node, signal.SIGSTOP)
    run_id = farm.load(sessions, tmp_path / "in", 8, chunk_size=4)
    time.sleep(1.5)  # the reconciler rings; a reply to its BRPOP waits in the stopped node's socket
    os.kill(node, signal.SIGKILL)
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    farm.end(worker)


@pytest.mark.usefixtures("nobody_dies")
@pytest.mark.parametrize("whole_group", [False, True], ids=["launcher", "whole group"])
def test_a_worker_told_to_end_gives_its_chunk_back_and_another_goes_on(
    here: Terminal, sessions: Sessions, run_id: int, whole_group: bool
) -> None:
    first = farm.start(here, "one", slow=0.1)
    farm.some_results(sessions)
    if whole_group:
        farm.signal_all(first, signal.SIGTERM)
    else:
        first.process.terminate()
    first.wait()
    assert {(chunk.crashes, chunk.attempts) for chunk in scenario.chunks(sessions, run_id)} == {(0, 0)}
    assert "running" not in {chunk.state for chunk in scenario.chunks(sessions, run_id)}
    farm.start(here, "two", "--until-empty").wait()
    farm.check(sessions, run_id)
    assert farm.forwards(here) == IMAGES + 2  # nothing twice, but for the self-tests


def test_three_signals_end_a_worker_at_once_and_cost_no_image(here: Terminal, sessions: Sessions, run_id: int) -> None:
    first = farm.start(here, "one", slow=0.5)
    farm.busy_child(sessions)
    for _ in range(3):
        first.process.terminate()
        time.sleep(0.1)
    first.wait(code=None)
    assert first.process.returncode in (0, 128 + signal.SIGTERM)  # the third one may come when the second was enough
    farm.start(here, "two", "--until-empty").wait()
    farm.check(sessions, run_id)


def test_a_machine_that_stands_still_and_then_goes_on_commits_nothing_late(
    here: Terminal, sessions: Sessions, run_id: int
) -> None:
    """Launcher, node and child stop for three leases, while another machine finishes."""
    first = farm.start(here, "one", slow=0.5)
    farm.some_results(sessions)
    farm.stop_in_hand(first, sessions)
    try:
        second = farm.start(here, "two", "--until-empty")
        second.wait()
        farm.check(sessions, run_id)
        fences = [chunk.fence for chunk in scenario.chunks(sessions, run_id)]
    finally:
        farm.signal_all(first, signal.SIGCONT)
    wait_until(lambda: "no longer ours" in first.output() or "lost" in first.output(), "the late owner to notice")
    farm.check(sessions, run_id)
    assert [chunk.fence for chunk in scenario.chunks(sessions, run_id)] == fences
    farm.end(first)


def test_a_child_that_stands_still_is_ended_by_its_launcher(here: Terminal, sessions: Sessions, run_id: int) -> None:
    """Nobody sends SIGCONT."""
    worker = farm.start(here, "one", "--until-empty", slow=0.1)
    farm.some_results(sessions)
    child = farm.busy_child(sessions)
    os.kill(child, signal.SIGSTOP)
    said = worker.wait()
    assert f"hangs: its process {child} is ended" in said
    farm.check(sessions, run_id)


@pytest.mark.usefixtures("nobody_dies")
def test_a_celery_parent_that_stands_still_does_not_keep_its_child_from_committing(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = farm.load(sessions, tmp_path / "in", 40, chunk_size=40)
    worker = farm.start(here, "one", "--until-empty", slow=0.1)
    farm.some_results(sessions)
    parent = parent_of(farm.busy_child(sessions))
    os.kill(parent, signal.SIGSTOP)
    farm.finish(sessions, run_id)
    os.kill(parent, signal.SIGCONT)
    worker.wait()
    farm.check(sessions, run_id)
    assert farm.forwards(here) == 40 + 1


@pytest.mark.usefixtures("nobody_dies")
def test_a_worker_whose_clock_is_hours_wrong_changes_nothing(here: Terminal, sessions: Sessions, run_id: int) -> None:
    """Only the database's clock counts."""
    farm.start(here, "one", "--num-gpus", "2", "--until-empty", FAKE_FAILPOINT="two_hours_ahead").wait()
    farm.check(sessions, run_id)
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}


def test_a_worker_whose_model_does_not_load_breaks_and_leaves_the_work_to_a_healthy_one(
    here: Terminal, sessions: Sessions, run_id: int, failing_attempts: set[str]
) -> None:
    """A segmenter that cannot be imported is somebody's bug: its traceback is shown."""
    failing_attempts.add("ModuleNotFoundError")
    broken = farm.start(here, "one", SAM3_SEGMENTER="tests.nowhere:Segmenter")
    wait_until(lambda: "repeated faults, told above" in broken.output(), "the breaker")
    assert "this node stops, nothing it tries succeeds; last: fake cannot be loaded" in broken.output()
    assert {chunk.attempts for chunk in scenario.chunks(sessions, run_id)} == {0}
    farm.start(here, "two", "--until-empty").wait()
    farm.check(sessions, run_id)
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}


def test_a_second_worker_on_the_same_slot_is_refused(here: Terminal, sessions: Sessions, run_id: int) -> None:
    farm.start(here, "one", slow=0.1)
    farm.busy_child(sessions)
    refused = here.run("sam3-worker", "--gpus", "cpu", code=2, SAM3_STATE_DIR=str(here.home / "one"))
    assert refused.stderr.splitlines()[-1] == (
        "sam3-worker: error: cpu0 is in use by another sam3-worker or sam3-run of yours; stop it first; "
        "one command starts several nodes with --num-gpus N"
    )


def test_workers_of_other_batch_sizes_and_messages_of_a_later_version_share_a_run(
    here: Terminal, sessions: Sessions, run_id: int
) -> None:
    """As far as one release can tell: a mixed fleet, and doorbells that it does not understand."""
    from workers.broker.app import create_app
    from workers.settings import Settings

    app = create_app(Settings(broker_url=here.environment["SAM3_BROKER_URL"]))
    for rung in runs.ring(sessions, run_id):
        later = runs.message(rung) | {"v": 3, "more": True}
        app.send_task("sam3.segment_chunk", args=[later], queue=runs.queue(sessions))
    first = farm.start(here, "one", "--batch-size", "1")
    second = farm.start(here, "two", "--batch-size", "16")
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    assert "messages from the broker" in farm.end(first) + farm.end(second)


def test_after_everything_died_at_once_the_same_command_goes_on(
    here: Terminal, sessions: Sessions, run_id: int
) -> None:
    """Power is lost: two machines at once, and no process is left that could put anything right."""
    both = [farm.start(here, name, slow=0.1) for name in ("one", "two")]
    farm.some_results(sessions, more=8)
    for one in both:
        one.kill_group()
    done = farm.results(sessions)
    assert 0 < done < IMAGES
    before = farm.forwards(here)
    farm.start(here, "one", "--until-empty").wait()
    farm.check(sessions, run_id)
    assert farm.forwards(here) - before <= IMAGES - done + 2


def test_an_owner_that_is_dead_but_not_of_this_machine_is_waited_for_until_its_lease_is_over(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """Seen from another machine: the numbers of its processes mean nothing here."""
    run_id = farm.load(sessions, tmp_path / "in", 4, chunk_size=4)
    gone = scenario.worker(sessions, pid=999_999_999)
    [rung] = runs.ring(sessions, run_id)
    assert write(sessions, claims.claim, run_id, rung.chunk_id, gone, 3) is not None
    write(sessions, lambda session: session.execute(update(Worker).values(state="running", chunk_id=rung.chunk_id)))
    farm.start(here, "one", "--until-empty").wait()
    farm.check(sessions, run_id)
    assert scenario.chunks(sessions, run_id)[0].fence == 2


def test_a_hanging_image_among_others_holds_up_only_itself(here: Terminal, sessions: Sessions, tmp_path: Path) -> None:
    """With a second node beside it: the other chunks end meanwhile, its neighbours once it is alone."""
    run_id = farm.load(sessions, tmp_path / "in", 24, {5: HANGS}, chunk_size=4)
    worker = farm.start(here, "one", "--num-gpus", "2", "--batch-size", "2", SAM3_STALL_SECONDS="1")
    wait_until(lambda: farm.results(sessions) >= 20, "the other chunks")
    assert scenario.states(sessions, run_id)[4] == "pending"
    assert [chunk.fence for chunk in scenario.chunks(sessions, run_id) if chunk.state == "done"] == [1] * 5
    farm.finish(sessions, run_id)
    [hung] = [image for image in scenario.images(sessions, run_id) if image.state == "failed"]
    assert hung.error_class in ("gave_up", "crashed")  # whether its process was still there when its turn was over
    farm.check(sessions, run_id, failed={5: hung.error_class})
    worker.interrupt()
    assert "hangs: its process" in worker.wait(code=130)


@pytest.mark.usefixtures("nobody_dies")
def test_a_worker_behind_nohup_goes_on_when_its_terminal_ends(here: Terminal, sessions: Sessions, run_id: int) -> None:
    """The signal is ignored by the launcher, as it was when that started, and by the nodes and what works in them."""
    worker = farm.start(here.on(("nohup",)), "one", "--until-empty", slow=0.1)
    child = farm.busy_child(sessions)
    farm.signal_all(worker, signal.SIGHUP)
    worker.wait()
    farm.check(sessions, run_id)
    assert "stopping" not in worker.output()
    assert {(chunk.attempts, chunk.fence) for chunk in scenario.chunks(sessions, run_id)} == {(0, 1)}
    workers = read(sessions, lambda session: session.execute(select(Worker.pid)).scalars().all())
    assert workers == [child]


@pytest.mark.usefixtures("nobody_dies")
def test_a_hangup_that_reaches_the_nodes_alone_ends_nothing(here: Terminal, sessions: Sessions, run_id: int) -> None:
    """Celery would start a node anew."""
    worker = farm.start(here, "one", "--until-empty", slow=0.1)
    child = farm.busy_child(sessions)
    for pid in farm.descendants(worker.process.pid):
        os.kill(pid, signal.SIGHUP)
    worker.wait()
    farm.check(sessions, run_id)
    workers = read(sessions, lambda session: session.execute(select(Worker.pid)).scalars().all())
    assert workers == [child]
