"""Joins two stages: a queue that either end can close, and the thread that fills it. Knows no work."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from workers.inference.stream.stage_threads import StageThread

WAITING = 1  # values; more of them would only take memory

T = TypeVar("T")
S = TypeVar("S")


class Closed(Exception):
    """The reader of a channel reads no more."""


class Channel(Generic[T]):
    """A queue between two threads, in which one value waits. The reader can close it, the writer end it with an error.

    (`queue.Queue` cannot wake a waiting writer for good; `Queue.shutdown` needs Python 3.13.)
    """

    def __init__(self) -> None:
        self._values: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._closed = False
        self._error: BaseException | None = None

    def put(self, value: T) -> None:
        """Add a value, waiting for room. Raises `Closed` if nobody will read it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._values) < WAITING)
            if self._closed:
                raise Closed
            self._values.append(value)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """End the queue: after the values that are in it the reader gets the error, if there is one."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Stop reader and writer, and drop the values in the queue."""
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
    """Have the thread put `work(value)` into `out` for every value of `source`. An error ends `out`.

    The future is done when the thread uses neither `source` nor `out` any more.
    """

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
