"""Starts the processes of a node without their imports: in a forked command, a twin of it forks for each one.

A twin is a fork of its process that was made before that did anything, so whatever it forks is as good as new: no
threads, locks, connections or handlers of signals of somebody else. What it forks stands for a Python that was to be
started: it is a child of who asked, as the kernel gives it to the nearest subreaper above, with the folder,
environment, session, signals and descriptors that were asked for, and from its first line on all is our real code.
A node gets a twin of its own, for its pool. A twin is called `twin` by ps, has a group of its own and ends with its
process. Such a node differs from a real one by its names in /proc, and by modules that are imported already.

Real nodes have the tests of `tests.quick_start` that name the real programs, those of networks and of namespaces, and
in `tests/integration` kills and a warm shutdown (`test_kills.py`), a poison image (`faults/test_poison.py`), secrets.
Source: https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html.
"""

import _posixsubprocess
import ctypes
import os
import runpy
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from tests import forks, handover
from workers.fleet import die_with_parent

NAME = "twin"
NODE = "workers.node"
_PR_SET_CHILD_SUBREAPER = 36
_THROUGH = [sys.executable, "-P", "-m", die_with_parent.__name__]


def make() -> forks.Run | None:
    """Give this process a twin that starts what belongs to a node. In what the twin forks, return what it is to run."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if not os.fork():
        ours.close()
        return _serve(theirs)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    really = _posixsubprocess.fork_exec

    def start(*args: Any) -> int:
        command = [os.fsdecode(word) for word in args[0]]
        return _ask(ours, command, args) if _is_of_a_node(command) else really(*args)

    _posixsubprocess.fork_exec = subprocess._fork_exec = start  # type: ignore[attr-defined]
    return None


def _is_of_a_node(command: Sequence[str]) -> bool:
    """Whether it is a Celery parent, or what billiard starts there: a worker, or who removes semaphores."""
    return command[0] == sys.executable and any(word == NODE or word.startswith("from billiard.") for word in command)


def _ask(twin: socket.socket, command: Sequence[str], args: Sequence[Any]) -> int:
    """Do what `fork_exec` does with these arguments; return the pid."""
    _, _, _, kept, cwd, env, stdin, _, _, stdout, _, stderr, _, until_exec, _, session, *_ = args
    given = os.environ if env is None else dict(os.fsdecode(one).split("=", 1) for one in env)
    asked = handover.command(command, os.fsdecode(cwd or os.getcwd()), given)
    asked |= {"session": bool(session), "group": os.getpgrp()}
    descriptors = {number: own if own >= 0 else number for number, own in enumerate((stdin, stdout, stderr))}
    descriptors |= {number: number for number in kept if number != until_exec}
    _adopt_orphans(True)
    with handover.hand_over(twin, asked, descriptors) as control:
        pid = int(control.recv(64))
        assert twin.recv(64), "the twin has ended"
        _adopt_orphans(False)
        control.send(b"go on")
    return pid


def _adopt_orphans(adopts: bool) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0)


def _serve(requests: socket.socket) -> forks.Run:
    _step_aside()
    while True:
        word, descriptors, _, _ = socket.recv_fds(requests, 16, 32)
        if not word:
            os._exit(0)
        between = os.fork()
        if not between:
            if os.fork():
                os._exit(0)  # so that the other one goes to who asked
            requests.close()
            return _stand_in(socket.socket(fileno=descriptors[0]), descriptors[1:])
        for descriptor in descriptors:
            os.close(descriptor)
        os.waitpid(between, 0)
        requests.send(b"yours now")


def _step_aside() -> None:
    """Let no signal reach this process that is meant for the real one, and keep open nothing of its."""
    os.setpgid(0, 0)  # all signals are blocked since the fork, and stay so
    with open(os.devnull, "r+") as nothing:
        for stream in range(3):
            os.dup2(nothing.fileno(), stream)
    Path("/proc/self/comm").write_text(NAME)


def _stand_in(control: socket.socket, descriptors: Sequence[int]) -> forks.Run:
    asked = forks.read(control)
    forks.set_signals(asked)
    if asked["session"]:
        os.setsid()
    else:
        os.setpgid(0, asked["group"])
    with control:
        control.send(str(os.getpid()).encode())
        if not control.recv(64):
            os._exit(1)  # who asked has ended, and nobody knows of this process
    Path("/proc/self/comm").write_text("python")
    forks.become(asked, descriptors)
    other = make() if NODE in asked["command"] else None
    return other or partial(_python, asked["command"])


def _python(command: list[str]) -> None:
    """Be this Python, with its -P, -W, -m and -c."""
    if command[: len(_THROUGH)] == _THROUGH:
        parent, *command = command[len(_THROUGH) :]
        with mock.patch.object(os, "execv"):  # from here on it is that process already
            die_with_parent.main(int(parent), command)
    del sys.path[0]  # -P
    words = iter(command[1:])
    for word in words:
        if word.startswith("-W"):
            sys.warnoptions.append(word[2:] or next(words))
        elif word in ("-m", "-c"):
            _run(word, next(words), list(words))


def _run(kind: str, program: str, arguments: list[str]) -> None:
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(program, main.__dict__)
