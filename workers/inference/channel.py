"""How two stages are joined: a bounded queue that can be closed from either end, and a thread that fills it."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

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


def stage(name: str, source: Iterable[S], work: Callable[[S], T], out: Channel[T]) -> threading.Thread:
    """Start a thread that puts `work(value)` of every value of `source` into `out`, errors included."""

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

    thread = threading.Thread(target=run, name=f"sam3-{name}", daemon=True)
    thread.start()
    return thread
