"""Three faults in a row open the breaker, whichever processes of the node they end."""

import signal
from contextlib import suppress

import pytest

from workers.node import life
from workers.node.breaker import Breaker
from workers.node.life import FAULT_SIGNAL, FAULTS, LOADED_SIGNAL, LOADING_SIGNAL, WELL_SIGNAL


def test_it_opens_at_the_third_fault_in_a_row_and_tells_the_parent_of_each() -> None:
    told: list[signal.Signals] = []
    breaker = Breaker(0, told.append)
    for _ in range(2):
        breaker.fault("the disk is full")
    assert not breaker.open
    for _ in range(2):
        breaker.success()
    assert not breaker.suspicious
    for _ in range(3):
        assert not breaker.open
        breaker.fault("the disk is full")
    assert breaker.open
    assert told == [FAULT_SIGNAL] * 2 + [WELL_SIGNAL] + [FAULT_SIGNAL] * 3


def test_once_open_it_stays_open() -> None:
    breaker = Breaker(0, tell=lambda number: None)
    for _ in range(3):
        breaker.fault("no model")
    breaker.success()
    assert breaker.open


def test_it_goes_on_counting_where_the_process_before_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "2")
    breaker = Breaker(life.faults_so_far(), tell=lambda number: None)
    assert breaker.suspicious
    breaker.fault("CUDA error")
    assert breaker.open


def test_it_tells_the_parent_when_a_load_begins_and_ends_however_it_ends() -> None:
    told: list[signal.Signals] = []
    breaker = Breaker(0, told.append)
    with suppress(OSError), breaker.loading():
        assert told == [LOADING_SIGNAL]
        raise OSError
    assert told == [LOADING_SIGNAL, LOADED_SIGNAL]
