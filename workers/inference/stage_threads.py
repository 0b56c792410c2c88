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
    """A thread that does one piece of work after the other, kept from stream to stream.

    CUDA's libraries keep things for each thread, such as cuDNN the plans of its convolutions, and would make them anew
    in a new one. The thread ends with what is in its hands once `end` is called, or this object is dropped; nobody
    waits for one that hangs.
    """

    def __init__(self, name: str) -> None:
        # The thread knows this queue and not the object, which could not be dropped otherwise.
        self._given: SimpleQueue[_Given | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work_off, args=(self._given,), name=f"sam3-{name}", daemon=True)
        self._thread.start()
        self._ending = weakref.finalize(self, self._given.put, None)
        self._ending.atexit = False  # a daemon ends with its process

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Do this when all that was given before is done."""
        future: Future[T] = Future()
        self._given.put((work, future))
        return future

    def end(self) -> None:
        """Take nothing more, which is final. Returns at once."""
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
        # Until the next work comes, this frame, and the traceback of an error with it, would hold on to a whole model.
        del one, work, future


class StageThreads:
    """The two threads that call a model. Kept with it, they serve one stream after the other, one at a time; it is also
    tested on them, since what works, or was made, in one thread is that thread's."""

    def __init__(self) -> None:
        self.forward, self.masks = StageThread("forward"), StageThread("masks")

    def end(self) -> None:
        """Let them go, without waiting for one that hangs."""
        self.forward.end()
        self.masks.end()

    def join(self) -> None:
        """Wait until they have ended."""
        self.forward.join()
        self.masks.join()


@contextmanager
def serving(kept: StageThreads | None) -> Iterator[StageThreads]:
    """The threads that somebody keeps, or some for this time alone."""
    threads = kept or StageThreads()
    try:
        yield threads
    finally:
        if kept is None:
            threads.end()
            threads.join()
