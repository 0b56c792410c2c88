"""Threads that work on items in order, ahead of the consumer of the results. Knows neither images nor batches.

The executors of `concurrent.futures` are not used, since their threads keep the process from ending if one hangs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from workers.inference.stream.channel import Closed

T = TypeVar("T")
S = TypeVar("S")


_given_up: "set[Future[Any]]" = set()  # the items of all threads of this process that were left behind
_given_up_lock = threading.Lock()


def left_behind() -> int:
    """How many threads of this process still hang on an item whose result is not waited for any more."""
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

    def result(self, seconds: float) -> T:
        """What a thread made of the item. Raises `TimeoutError` once it works on it for longer than `seconds`."""
        spent = 0.0 if self.began is None else time.monotonic() - self.began
        return self.future.result(max(0.0, seconds - spent))


class ReadAhead(Generic[S, T]):
    """Calls `work` for items in several threads; the results are taken in the order in which items were submitted.

    Only one thread may submit and take; any thread may close. Threads cannot be ended, so a thread that works longer
    than `seconds` on an item is left behind and counted.
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
        """Have a thread work on the item as soon as one is free. Raises `Closed`."""
        with self._lock:
            if self._closed:
                raise Closed
            self._ahead.append(_Task(item))
            self._queue.put(self._ahead[-1])

    def take(self) -> T:
        """The result of the oldest item. Raises `TimeoutError` if a thread hangs on it, and `Closed`."""
        task = self._ahead[0]
        try:
            # All items before it are done or given up, so a thread works on it by now.
            return task.result(self._seconds)
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
        """Start no further item, and wait up to `seconds` for those that threads work on."""
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
                if task.future.cancel():  # the others are in old threads, which may still finish them
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
        """Make the present threads end when they have finished their items."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self, queue: "SimpleQueue[_Task[S, T] | None]") -> None:
        while (task := queue.get()) is not None:
            task.run(self._work)
