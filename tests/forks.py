"""What a fork does that stands for a process which somebody asked for: it becomes that one. Knows no programs."""

import atexit
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

Run = Callable[[], Any]  # what a fork is to do, once it is what was asked for
IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}  # from its start on
HIGH = 500  # descriptors from here on are in nobody's way


def read(control: socket.socket) -> Any:
    """What `tests.handover` told of the process."""
    parts = []
    while (part := control.recv(40_000)) != b"end":
        if not part:
            os._exit(1)  # who asked has ended
        parts.append(part)
    return json.loads(b"".join(parts))


def become(asked: Any, descriptors: Sequence[int]) -> None:
    """Take on what a new process would have got; every other descriptor is closed, and no object here may own one."""
    os.chdir(asked["cwd"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    _set_descriptors(dict(zip(asked["numbers"], descriptors, strict=True)))
    _open_streams()
    signal.pthread_sigmask(signal.SIG_SETMASK, asked["blocked"])


def set_signals(asked: Any) -> None:
    """Ignore what a new Python would. What is blocked stays so until this has become that one."""
    ignored = IGNORED_BY_PYTHON | set(asked["ignored"])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        otherwise = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else otherwise)


def end_after(run: Run) -> None:
    """Run it and end as Python does, but for its last act, which visits all objects: each fork would copy them for it.

    Whatever is not the usual end of a program is left to Python.
    """
    code: Any = None
    try:
        run()
    except SystemExit as end:
        code = end.code
    if code is None or isinstance(code, int):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
    sys.exit(code)


def _set_descriptors(given: Mapping[int, int]) -> None:
    high = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for number, descriptor in given.items()}
    os.closerange(0, HIGH)
    for number, descriptor in high.items():
        os.dup2(descriptor, number)
        os.close(descriptor)


def _open_streams() -> None:
    """Open standard input, output and errors anew: whether a stream can seek is asked when it is opened."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        before = getattr(sys, name)
        buffer = open(number, f"{mode}b", closefd=False)  # noqa: SIM115 - as long as the process
        at_once = before.line_buffering or before.write_through
        stream = TextIOWrapper(buffer, before.encoding, before.errors, line_buffering=at_once)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
