"""Calls functions in processes of our own, which let all others go first and end with this one. Knows no work."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, ParamSpec, TypeVar

from workers.cores import usable_cores
from workers.errors import Sam3Error

Value = TypeVar("Value")
Args = ParamSpec("Args")

MOST_PROCESSES = 16  # beside nodes that need cores and memory too
NICENESS = 10  # nodes have 0


def processes() -> int:
    """How many helpers suit this machine: one for each core that we may use."""
    return min(usable_cores(), MOST_PROCESSES)


class HelperEnded(Sam3Error):
    """A helper was ended from outside, for instance by the system when memory ran out."""

    exit_code = 1


class Helpers:
    """Processes that start when they are first needed. `call` may be used by several threads at once.

    A helper reads its work from a pipe that only this process can write to: when this process ends, in whatever way,
    the pipe does too, and so does the helper. Ctrl-C does not reach it: who calls decides what is still finished.
    """

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []

    def call(self, function: Callable[Args, Value], *args: Args.args, **kwargs: Args.kwargs) -> Value:
        """The value of `function(...)`, or what it raises; both must be importable there. Waits for it."""
        helper = self._take()
        assert helper.stdin is not None
        assert helper.stdout is not None
        try:
            pickle.dump((function, args, kwargs), helper.stdin)
            helper.stdin.flush()
            good, value = pickle.load(helper.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise HelperEnded(
                f"a process of ours was ended ({helper.wait()}) in the middle of its work, perhaps since memory ran "
                "out; the same command again goes on from there"
            ) from None
        self._idle.append(helper)
        if not good:
            raise value
        return value  # type: ignore[no-any-return]

    @property
    def pids(self) -> list[int]:
        return [helper.pid for helper in self._all]

    def close(self) -> None:
        """End them all, at once; nobody may be waiting in `call`."""
        for helper in self._all:
            helper.kill()
        for helper in self._all:
            helper.communicate()
        self._all, self._idle = [], []

    def _take(self) -> subprocess.Popen[bytes]:
        with suppress(IndexError):
            return self._idle.pop()
        helper = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "producer.results.helpers",
            ],  # -P: a user may have a folder called producer
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._all.append(helper)
        return helper


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Call what is asked for, until nobody asks any more."""
    while True:
        try:
            function, args, kwargs = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):  # in the middle of a request too
            return
        reply: tuple[bool, Any]
        try:
            reply = (True, function(*args, **kwargs))
        except Exception as error:
            reply = (False, error)
        try:
            pickle.dump(reply, replies)
            replies.flush()
        except BrokenPipeError:
            return


def main() -> None:
    os.nice(NICENESS)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    serve(sys.stdin.buffer, replies)
    with suppress(OSError):
        replies.close()


if __name__ == "__main__":
    main()
