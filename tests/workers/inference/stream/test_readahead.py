"""Results come in order whatever the threads do, and neither a hanging one nor a close in between holds anybody up."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.terminals import PATIENCE
from tests.workers.inference.stream.conftest import Hurry
from workers.inference.stream import readahead
from workers.inference.stream.channel import Closed
from workers.inference.stream.readahead import ReadAhead, left_behind

HANGS = -1


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Ends whatever hangs."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def work(let_go: threading.Event) -> Callable[[int], int]:
    def square(number: int) -> int:
        if number == HANGS:
            let_go.wait(60)
        return number * number

    return square


def test_results_come_in_the_order_of_the_items(work: Callable[[int], int]) -> None:
    ahead = ReadAhead(work, threads=4, seconds=60)
    for number in range(200):
        ahead.submit(number)
    assert [ahead.take() for _ in range(200)] == [number * number for number in range(200)]
    ahead.close()


def test_what_hangs_is_given_up_and_all_others_come_through(work: Callable[[int], int], hurry_only: Hurry) -> None:
    hurry_only(lambda number: number == HANGS)
    ahead = ReadAhead(work, threads=2, seconds=0.3)
    for number in (1, HANGS, HANGS, HANGS, 2, 3):
        ahead.submit(number)
    assert ahead.take() == 1
    for _ in range(3):
        with pytest.raises(TimeoutError):
            ahead.take()
    assert [ahead.take(), ahead.take()] == [4, 9]
    ahead.close()


def test_an_error_of_the_work_comes_out_where_its_result_would() -> None:
    ahead: ReadAhead[int, float] = ReadAhead(lambda number: 1 / number, threads=1, seconds=60)
    ahead.submit(0)
    ahead.submit(2)
    with pytest.raises(ZeroDivisionError):
        ahead.take()
    assert ahead.take() == 0.5
    ahead.close()


def test_a_close_while_items_are_submitted_waits_for_nothing_and_leaves_no_thread(work: Callable[[int], int]) -> None:
    before = set(threading.enumerate())

    def submit_on_and_on(ahead: ReadAhead[int, int]) -> None:
        with suppress(Closed):
            while True:
                ahead.submit(1)

    for _ in range(15):
        ahead = ReadAhead(work, threads=2, seconds=3600)
        submitting = threading.Thread(target=submit_on_and_on, args=(ahead,))
        submitting.start()
        time.sleep(0.002)
        ahead.close()
        submitting.join()
    assert set(threading.enumerate()) <= before  # threads of tests before this one may end meanwhile


def test_a_close_while_a_hanging_item_is_waited_for_ends_and_says_closed(
    work: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, closes = threading.Event(), threading.Event()

    def result(task: readahead._Task[int, int], seconds: float) -> int:
        waits.set()
        assert closes.wait(PATIENCE)
        return task.future.result(seconds)

    monkeypatch.setattr(readahead._Task, "result", result)
    ahead = ReadAhead(work, threads=1, seconds=0.2)
    ahead.submit(HANGS)
    ahead.submit(1)
    told: list[type[BaseException]] = []

    def take() -> None:
        for _ in range(2):
            try:
                ahead.take()
            except (Closed, TimeoutError) as error:
                told.append(type(error))

    taking = threading.Thread(target=take)
    taking.start()
    assert waits.wait(PATIENCE)
    ahead.close()
    closes.set()
    taking.join(PATIENCE)
    assert told == [Closed, Closed]


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = (
        "import threading\n"
        "from workers.inference.stream.readahead import ReadAhead\n"
        "ahead = ReadAhead(lambda item: threading.Event().wait(), threads=1, seconds=0.2)\n"
        "ahead.submit(1)\n"
        "ahead.close()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False).returncode == 0


def test_what_hangs_is_counted_until_it_comes_back(
    work: Callable[[int], int], let_go: threading.Event, hurry_only: Hurry
) -> None:
    hurry_only(lambda number: number == HANGS)
    before = left_behind()
    ahead = ReadAhead(work, threads=2, seconds=0.2)
    for number in (HANGS, 1, HANGS):
        ahead.submit(number)
    with pytest.raises(TimeoutError):
        ahead.take()
    assert left_behind() == before + 1
    ahead.take()
    ahead.close()  # the other one is in hand
    assert left_behind() == before + 2
    let_go.set()
    while left_behind() > before:
        time.sleep(0.01)
