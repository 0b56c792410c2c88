"""Three faults in a row open the breaker, once."""

from workers.breaker import Breaker


def test_it_opens_at_the_third_fault_in_a_row_and_trips_once() -> None:
    trips: list[int] = []
    breaker = Breaker(trip=lambda: trips.append(1))
    for _ in range(2):
        breaker.fault("the disk is full")
    assert not breaker.open
    breaker.success()
    for _ in range(2):
        breaker.fault("the disk is full")
    assert not breaker.open
    for _ in range(2):
        breaker.fault("the disk is full")
    assert breaker.open
    assert trips == [1]


def test_once_open_it_stays_open() -> None:
    breaker = Breaker(trip=lambda: None)
    for _ in range(3):
        breaker.fault("no model")
    breaker.success()
    assert breaker.open
