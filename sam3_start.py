"""Where every command begins, before anything is imported that takes time: signals, and folders that hide our packages.

Standard library only, and as little of it as possible. It lies beside our packages and not in one of them: a folder of
the user's that is called `db`, `producer` or `workers` must not hide it too. Knows no flags and no output.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

TYPE_CHECKING = False  # as typing's, which takes ten times as long to import as all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

PACKAGES = ("db", "producer", "workers")
USAGE = 2  # the exit code of wrong usage, as in workers.errors
INTERRUPTED = 128 + signal.SIGINT
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SENT_BY_KERNEL = 0x80  # SI_KERNEL of sigaction(2): a terminal sends Ctrl-C so, to all processes in its foreground


class Program:
    """What a script of ours calls. The command itself, as `module:name`, is imported when something of it is asked.

    With `ends_at_once` the command has nothing to put away, and a signal ends it wherever it is.
    """

    def __init__(self, place: str, *, ends_at_once: bool = False) -> None:
        self._module, _, self._name = place.partition(":")
        self._ends_at_once = ends_at_once

    def __call__(self) -> NoReturn:
        """Run the command as a program."""
        hold_standard_files()
        if os.getpid() == 1:
            _look_after_a_child()
        stopping = Stopping()
        _refuse_hiding_folders()
        command = self._command()
        if not self._ends_at_once:
            stopping.begin()
        code: Any = INTERRUPTED
        try:
            command.main()
        except SystemExit as end:
            code = end.code
        except KeyboardInterrupt:  # beside what the command itself looks after
            pass
        stopping.end(code)
        gc.freeze()  # else Python looks for garbage among all there is once more, for a fifth of a second
        sys.exit(stopping.code)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._command(), name)

    def _command(self) -> Any:
        from importlib import import_module

        with QuickImports():
            return getattr(import_module(self._module), self._name)


class QuickImports:
    """`with QuickImports():` around imports of much code, torch's for one, takes a quarter of their time away.

    Imports make many objects and hardly any garbage, and Python would look at all of them again and again to find some.
    What was imported stays as long as the process, so it is not looked at later either. If all was there already this
    changes nothing: what else there is may still become garbage.
    """

    def __enter__(self) -> None:
        self._collects, self._modules = gc.isenabled(), len(sys.modules)
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if len(sys.modules) > self._modules:
            gc.freeze()
        if self._collects:
            gc.enable()


class Stopping:
    """What Ctrl-C, SIGTERM and SIGHUP do to a command, unless it has handlers of its own while it works.

    Until the command begins there is nothing to put away: the process ends at once. Then the first signal is a
    `KeyboardInterrupt`, and a second one ends it. When the command is over the process ends with its exit code.
    A signal that was ignored when we were started stays so: `nohup`, and what a shell runs in the background.
    """

    def __init__(self) -> None:
        self.code = 0
        self._on: Callable[[int], None] = _exit
        self._asked: int | None = None
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def begin(self) -> None:
        """From now on the command can be interrupted."""
        self._on = self._interrupt
        sys.unraisablehook = self._swallowed

    def end(self, code: Any) -> None:
        """The command is over; what may still take a moment are the ends of threads."""
        self._on = lambda number: os._exit(self.code)
        self.code = code if isinstance(code, int) else 0
        if self._asked is not None and self.code == INTERRUPTED:
            self.code = 128 + self._asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._on(number)

    def _interrupt(self, number: int) -> None:
        if self._asked is not None:
            _exit(number)
        self._asked = number
        raise KeyboardInterrupt

    def _swallowed(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Send an interrupt again a moment later, if it came where nothing can raise, such as the end of an object.

        Other errors in such places are shown, but not after an interrupt: they come from what it left half done.
        """
        if self._asked is None:
            sys.__unraisablehook__(unraisable)
            return
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            return
        number, self._asked = self._asked, None
        from threading import Timer

        Timer(0.01, os.kill, (os.getpid(), number)).start()


def hold_standard_files() -> None:
    """Let what was closed of standard input, output and errors lead to nowhere.

    Else the next file that is opened gets its number, and libraries and processes of ours print into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _exit(number: int) -> None:
    os._exit(128 + number)


def _refuse_hiding_folders() -> None:
    """End with one line if PYTHONPATH has a folder before ours that holds packages of the same names."""
    from importlib.util import find_spec

    ours = os.path.dirname(os.path.abspath(__file__))
    for name in PACKAGES:
        found = find_spec(name)
        origin = os.path.abspath(found.origin) if found and found.origin else ""
        if os.path.dirname(os.path.dirname(origin)) != ours:
            _refuse(name, os.path.dirname(origin) if origin.endswith("__init__.py") else origin)


def _refuse(name: str, hiding: str) -> NoReturn:
    from shlex import join

    program, *arguments = sys.argv
    program = os.path.basename(program)
    advice = f"start it without that: env -u PYTHONPATH {join([program, *arguments])}"
    if "PYTHONPATH" not in os.environ:
        advice = "install sam3-queue into an environment of its own"
    line = f"{program}: error: {hiding or 'something else'} hides our package {name}; {advice}"
    os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    sys.exit(USAGE)


def _look_after_a_child() -> None:
    """As the first process of a container: go on in a child, hand signals on to it, bury orphans, end as it ends.

    The kernel drops signals that the first process has no handler for, and leaves it every orphan; with a child that
    does the work, each command behaves there as anywhere else.
    """
    wanted = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        came = signal.sigwaitinfo(wanted)
        if came.si_signo == signal.SIGCHLD:
            _bury(child)
        elif came.si_code != SENT_BY_KERNEL:  # the terminal's Ctrl-C has reached the child by itself
            os.kill(child, came.si_signo)


def _bury(child: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def become_other_program(module: str, *arguments: str) -> NoReturn:
    """Go on in this process as a module of somebody else's, which has nothing to put away: a signal ends it at once.

    Signals that come while Python starts anew wait until it has our handlers.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "sam3_start", module, *arguments])


def _other_program(module: str) -> None:
    from runpy import run_module

    Stopping()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    sys.argv = sys.argv[1:]
    run_module(module, run_name="__main__", alter_sys=True)


sam3 = Program("producer.cli.main:main")
run = Program("producer.cli.run:main")
enqueue = Program("producer.cli.enqueue:main")
status = Program("producer.cli.status:main")
retry = Program("producer.cli.retry:main")
pause = Program("producer.cli.pause:main")
resume = Program("producer.cli.resume:main")
set_ = Program("producer.cli.set:main")
cancel = Program("producer.cli.cancel:main")
delete = Program("producer.cli.delete:main")
export = Program("producer.cli.export:main")
database = Program("producer.cli.database:main")
worker = Program("workers.cli.commands:worker")
broker = Program("workers.cli.commands:broker")
flower = Program("workers.cli.commands:flower", ends_at_once=True)

if __name__ == "__main__":  # `python -m sam3_start MODULE ARGUMENTS`
    _other_program(sys.argv[1])
