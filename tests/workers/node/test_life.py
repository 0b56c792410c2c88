"""How a node ends: what its Celery parent makes of the signals of its worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import celery.worker.state
import pytest

from tests.quick_start import PROJECT
from workers.errors import NODE_BROKE, NODE_RENEWS
from workers.node import life
from workers.node.life import (
    FAULT_SIGNAL,
    FAULTS,
    LOADED_SIGNAL,
    LOADING,
    LOADING_SIGNAL,
    RENEW_SIGNAL,
    WELL_SIGNAL,
)


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process stands for the Celery parent."""
    monkeypatch.setattr(celery.worker.state, "should_stop", None)
    monkeypatch.setenv(FAULTS, "7")  # of another node, perhaps
    monkeypatch.setenv(LOADING, "1")
    numbers = (FAULT_SIGNAL, WELL_SIGNAL, RENEW_SIGNAL, LOADING_SIGNAL, LOADED_SIGNAL)
    before = {number: signal.getsignal(number) for number in numbers}
    life.count_faults()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tell(*numbers: signal.Signals) -> object:
    """Signal the parent, and return what it ends with, if it does."""
    for number in numbers:
        os.kill(os.getpid(), number)
    return celery.worker.state.should_stop


@pytest.mark.usefixtures("parent")
def test_three_faults_in_a_row_end_the_node_with_a_code_of_our_own() -> None:
    assert tell(FAULT_SIGNAL, FAULT_SIGNAL) is None
    assert life.faults_so_far() == 2  # what the next process begins with
    assert tell(FAULT_SIGNAL) == NODE_BROKE


@pytest.mark.usefixtures("parent")
def test_work_between_two_faults_makes_them_count_from_the_start() -> None:
    assert tell(FAULT_SIGNAL, FAULT_SIGNAL, WELL_SIGNAL, FAULT_SIGNAL, FAULT_SIGNAL) is None
    assert life.faults_so_far() == 2


@pytest.mark.usefixtures("parent")
def test_a_process_that_is_worn_out_has_its_node_started_again_at_once() -> None:
    assert tell(RENEW_SIGNAL) == NODE_RENEWS


@pytest.mark.usefixtures("parent")
def test_a_worker_knows_that_the_one_before_it_ended_while_it_loaded_a_model() -> None:
    assert not life.died_loading()
    tell(LOADING_SIGNAL)
    assert life.died_loading()
    tell(LOADED_SIGNAL)
    assert not life.died_loading()


@pytest.mark.usefixtures("parent")
def test_a_fault_that_ends_a_load_is_counted_once() -> None:
    tell(LOADING_SIGNAL, FAULT_SIGNAL)
    assert not life.died_loading()
    assert life.faults_so_far() == 1


def after_sigterm(*steps: str) -> tuple[int, list[str]]:
    """How a process ends in which these steps follow one another, and what it prints; `kill()` sends it SIGTERM."""
    start = (
        "import os, signal, threading, time",
        "from workers.node import life",
        "kill = lambda: os.kill(os.getpid(), signal.SIGTERM)",
        "draining = threading.Event()",
    )
    script = "\n".join([*start, *steps])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, check=False)
    return done.returncode, done.stdout.split()


def test_sigterm_while_a_doorbell_is_answered_asks_to_drain_and_ends_nothing() -> None:
    answer = ("with life.draining_on_sigterm(draining):", "    kill()", "    print(draining.is_set())")
    assert after_sigterm(*answer) == (0, ["True"])


def test_sigterm_after_a_task_leaves_its_answer_the_time_to_arrive_and_takes_no_other() -> None:
    answered = ("with life.draining_on_sigterm(draining):", "    pass", "kill()")
    goes_on = ("print('answered', draining.is_set(), flush=True)", "time.sleep(60)", "print('lived on')")
    assert after_sigterm(*answered, *goes_on) == (0, ["answered", "True"])


def test_a_process_that_drains_goes_on_to_drain_when_another_doorbell_comes() -> None:
    second = "with life.draining_on_sigterm(draining): print(draining.is_set())"
    assert after_sigterm("with life.draining_on_sigterm(draining): kill()", second) == (0, ["True"])
