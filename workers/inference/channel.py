"""How two stages are joined: a bounded queue that can be closed from either end, and how a thread fills it."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from workers.inference.stage_threads import StageThread

T = TypeVar("T")
S = TypeVar("S")


class Closed(Exception):
    """The reader of a channel has gone."""


class Channel(Generic[T]):
    """A bounded queue between two threads that can be closed from the reading end and carries an error along.

    (`queue.Queue` cannot wake a waiting writer for good; `Queue.shutdown` needs Python 3.13.)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._closed = False
        self._error: BaseException | None = None

    def put(self, value: T) -> None:
        """Add a value, waiting for room. Raises `Closed` if nobody will read it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._values) < self._capacity)
            if self._closed:
                raise Closed
            self._values.append(value)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing follows; after the values in the queue, the reader gets the error, if any."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Stop both ends: waiting values are dropped."""
        with self._changed:
            self._closed = True
            self._values.clear()
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._values or self._finished or self._closed)
                if not self._values:
                    break
                value = self._values.popleft()
                self._changed.notify_all()
            yield value
        if self._error is not None and not self._closed:
            raise self._error


def stage(thread: StageThread, source: Iterable[S], work: Callable[[S], T], out: Channel[T]) -> "Future[None]":
    """Let the thread put `work(value)` of every value of `source` into `out`, errors included. The future is done when
    it has left all of them."""

    def run() -> None:
        try:
            for value in source:
                if out.closed:
                    return
                out.put(work(value))
        except Closed:
            return
        except BaseException as error:
            out.finish(error)
        else:
            out.finish()

    return thread.call(run)
