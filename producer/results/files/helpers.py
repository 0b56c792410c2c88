"""Calls functions in helper processes, which have a low priority and end with this process. Knows none of the work."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, ParamSpec, TypeVar

from workers.errors import Sam3Error
from workers.machine.cores import usable_cores
from workers.places import web

Value = TypeVar("Value")
Args = ParamSpec("Args")

MOST_PROCESSES = 16  # the nodes on the same machine need cores and memory, too
NICENESS = 10  # nodes have 0, so that they come first


def processes() -> int:
    """How many helpers suit this machine: one for each core that this process may use, up to `MOST_PROCESSES`."""
    return min(usable_cores(), MOST_PROCESSES)


class HelperEnded(Sam3Error):
    """Another process ended a helper, for instance the system when memory ran out."""

    exit_code = 1


class Helpers:
    """Helper processes, which start when they are first needed. Several threads may use `call` at once.

    A helper reads its work from a pipe that only this process writes to. When this process ends, in whatever way, the
    pipe is closed and the helper ends. Ctrl-C does not reach a helper: this process decides what is still finished.
    """

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []

    def call(self, function: Callable[Args, Value], *args: Args.args, **kwargs: Args.kwargs) -> Value:
        """Run `function(...)` in a helper, wait for it, and return its value or raise its error.

        Function, arguments, value and error must be picklable. Raises `HelperEnded` if the helper ends before.
        """
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
        """End all helpers at once. No thread may be waiting in `call`."""
        for helper in self._all:
            helper.kill()
        for helper in self._all:
            helper.communicate()
        self._all, self._idle = [], []

    def _take(self) -> subprocess.Popen[bytes]:
        with suppress(IndexError):
            return self._idle.pop()
        helper = subprocess.Popen(
            # -P: do not import from the working folder, in which a user may have a folder called producer.
            [sys.executable, "-P", "-m", "producer.results.files.helpers", *web.given()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._all.append(helper)
        return helper


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer pickled calls from `requests` with pickled (succeeded, value or error) until `requests` is closed."""
    while True:
        try:
            function, args, kwargs = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):  # the pipe was closed, maybe in the middle of a request
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
    web.allow(*sys.argv[1:])
    os.nice(NICENESS)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that a library prints goes to standard error, as it is no reply
    serve(sys.stdin.buffer, replies)
    with suppress(OSError):
        replies.close()


if __name__ == "__main__":
    main()
