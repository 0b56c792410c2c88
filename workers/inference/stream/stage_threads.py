"""The threads that call a model, kept from one stream to the next. Knows no model and no images."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class StageThread:
    """A thread that does one piece of work after the other, for one stream after the other.

    CUDA's libraries store values for each thread, for instance cuDNN the plans of its convolutions, and compute them
    again in a new thread. The thread ends after the work in hand when `end` is called, or when this object is dropped.
    Nobody waits for a thread that hangs.
    """

    def __init__(self, name: str) -> None:
        # The thread has a reference to this queue and not to the object, so that the object can be dropped.
        self._given: SimpleQueue[_Given | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work_off, args=(self._given,), name=f"sam3-{name}", daemon=True)
        self._thread.start()
        self._ending = weakref.finalize(self, self._given.put, None)
        self._ending.atexit = False  # a daemon ends with its process

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Have the thread do `work` after all earlier work."""
        future: Future[T] = Future()
        self._given.put((work, future))
        return future

    def end(self) -> None:
        """Take no more work, for good. Returns at once."""
        self._ending()

    def join(self) -> None:
        """Wait for the end that was asked for."""
        self._thread.join()


_Given = tuple[Callable[[], Any], "Future[Any]"]


def _work_off(given: "SimpleQueue[_Given | None]") -> None:
    while (one := given.get()) is not None:
        work, future = one
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        # Else this frame would keep them, and with the traceback of an error a whole model, until the next work comes.
        del one, work, future


class StageThreads:
    """The two threads that call a model. They live as long as the model and serve one stream at a time.

    The model is also tested on them, as CUDA's libraries may work in one thread and not in another.
    """

    def __init__(self) -> None:
        self.forward, self.masks = StageThread("forward"), StageThread("masks")

    def end(self) -> None:
        """End both, without waiting for one that hangs."""
        self.forward.end()
        self.masks.end()

    def join(self) -> None:
        """Wait until they have ended."""
        self.forward.join()
        self.masks.join()


@contextmanager
def serving(kept: StageThreads | None) -> Iterator[StageThreads]:
    """The threads that are given, or new ones, which end with the block."""
    threads = kept or StageThreads()
    try:
        yield threads
    finally:
        if kept is None:
            threads.end()
            threads.join()
