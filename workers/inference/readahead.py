"""Threads that work on items in order, some ahead of whoever takes the results. Knows neither images nor batches.

Threads of our own: those of `concurrent.futures` would keep the process from ending while one of them hangs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from workers.inference.channel import Closed

T = TypeVar("T")
S = TypeVar("S")


_given_up: "set[Future[Any]]" = set()  # of this process: what threads had in hand when they were left behind
_given_up_lock = threading.Lock()


def left_behind() -> int:
    """How many threads of this process hang on an item that nobody waits for any more."""
    with _given_up_lock:
        _given_up.difference_update([future for future in _given_up if future.done()])
        return len(_given_up)


def _give_up(futures: "Iterable[Future[Any]]") -> None:
    with _given_up_lock:
        _given_up.update(futures)


@dataclass(eq=False)
class _Task(Generic[S, T]):
    """One item on its way through a thread."""

    item: S
    future: "Future[T]" = field(default_factory=Future)
    began: float | None = None  # when a thread took it

    def run(self, work: Callable[[S], T]) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        self.began = time.monotonic()
        try:
            self.future.set_result(work(self.item))
        except BaseException as error:
            self.future.set_exception(error)

    def spent(self) -> float:
        return 0.0 if self.began is None else time.monotonic() - self.began


class ReadAhead(Generic[S, T]):
    """Results of `work`, taken in the order in which items were submitted. One thread submits and takes; any closes.

    A thread cannot be ended, so one that works longer than `seconds` on an item is left behind with it, and counted.
    """

    def __init__(self, work: Callable[[S], T], threads: int, seconds: float) -> None:
        self._work, self._seconds = work, seconds
        self._ahead: deque[_Task[S, T]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._start(threads)

    def __len__(self) -> int:
        return len(self._ahead)

    def submit(self, item: S) -> None:
        """Let a thread begin with it as soon as one is free. Raises `Closed`."""
        with self._lock:
            if self._closed:
                raise Closed
            self._ahead.append(_Task(item))
            self._queue.put(self._ahead[-1])

    def take(self) -> T:
        """The result of the oldest item. Raises `TimeoutError` if a thread hangs on it, and `Closed`."""
        task = self._ahead[0]
        try:
            # All before it are done or given up, so by now it is in a thread's hands.
            return task.future.result(max(0.0, self._seconds - task.spent()))
        except CancelledError:
            raise Closed from None
        except TimeoutError:
            _give_up([task.future])
            self._leave_stuck_threads()
            raise
        finally:
            with self._lock:
                self._ahead.popleft()

    def close(self) -> None:
        """Start nothing more, and wait for what is in hand, but not for ever."""
        with self._lock:
            self._closed = True
            in_hand = [task.future for task in self._ahead if not task.future.cancel()]
            self._end()
        if hanging := wait(in_hand, self._seconds).not_done:
            _give_up(hanging)
        else:
            for thread in self._threads:
                thread.join()

    def _leave_stuck_threads(self) -> None:
        with self._lock:
            if self._closed:
                raise Closed
            self._end()
            self._start(len(self._threads))
            for place, task in enumerate(self._ahead):
                if task.future.cancel():  # the others have threads, which may come through yet
                    self._ahead[place] = _Task(task.item)
                    self._queue.put(self._ahead[place])

    def _start(self, count: int) -> None:
        self._queue: SimpleQueue[_Task[S, T] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, args=(self._queue,), name=f"decode-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _end(self) -> None:
        """The threads of now end once they come back."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self, queue: "SimpleQueue[_Task[S, T] | None]") -> None:
        while (task := queue.get()) is not None:
            task.run(self._work)
