"""Runs our commands as a person would, as real processes; whatever they leave behind ends with the test."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

from tests.quick_start import BIN, SCRIPTS, Forerunner, Process

PATIENCE = 180.0  # seconds: the machines that run this are shared


class Background:
    """A command that goes on while the test does."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process, self.log = process, log

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill_group(self) -> None:
        """`kill -9` of everything the terminal started; what moved to groups of its own must end by itself."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, code: int | None = 0, seconds: float = PATIENCE) -> str:
        """Wait for the end and return what was printed."""
        ended = self.process.wait(seconds)
        assert code is None or ended == code, f"ended with {ended}:\n{self.output()}"
        return self.output()


class Terminal:
    """Commands in one folder with one environment, started anew or, with a forerunner, as forks of it."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.forerunner: Forerunner | None = None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SAM3_")}
        self.environment = inherited | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"} | environment
        self._started: list[Background] = []
        self._within: tuple[str, ...] = ()

    def run(self, *command: str, code: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end and check its exit code."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            process = self._begin(command, environment, (output.fileno(), errors.fileno()))
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
            output.seek(0)
            errors.seek(0)
            done = subprocess.CompletedProcess(command, process.wait(), output.read(), errors.read())
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def type(self, line: str, code: int = 0, seconds: float = PATIENCE) -> "subprocess.CompletedProcess[str]":
        """Have a shell run a line, as somebody types or copies it."""
        path, descriptors = f"{BIN}{os.pathsep}{self.environment['PATH']}", []
        if self.forerunner is not None:
            path, descriptors = f"{self.forerunner.commands}{os.pathsep}{path}", [self.forerunner.descriptor]
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.home,
            env=self.environment | {"PATH": path},
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == code, f"{line} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def json(self, *command: str, code: int = 0) -> Any:
        return json.loads(self.run(*command, "--json", code=code).stdout)

    def on(self, within: tuple[str, ...]) -> "Terminal":
        """The same terminal on another host: `within` stands before each command that it starts."""
        other = copy(self)
        other._within = within
        return other

    def start(self, *command: str, **environment: str) -> Background:
        """Start a command in a process group of its own, as a shell does."""
        log = self.home / f"{len(self._started):02}-{command[0]}.log"
        with log.open("wb") as output:
            process = self._begin(command, environment, (output.fileno(), output.fileno()))
        self._started.append(Background(process, log))
        return self._started[-1]

    def _begin(self, command: tuple[str, ...], environment: dict[str, str], output: tuple[int, int]) -> Process:
        if self.forerunner is not None and not self._within and command[0] in SCRIPTS:
            return self.forerunner.start(command, self.home, self.environment | environment, output)
        return subprocess.Popen(
            [*self._within, BIN / command[0], *command[1:]],
            cwd=self.home,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=output[0],
            stderr=output[1],
            start_new_session=True,
        )

    def close(self) -> None:
        for one in self._started:
            if one.process.poll() is None:
                one.kill_group()


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Look again and again, until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
