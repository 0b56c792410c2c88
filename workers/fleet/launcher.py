"""Starts one Celery node for each slot, restarts those that end, drains them when asked. Knows no tasks, only names."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from db import private
from workers.errors import NODE_BROKE, NODE_RENEWS, UsageError
from workers.fleet.gpu_memory import growing
from workers.fleet.gpus import Slot, showing
from workers.fleet.processes import with_parent
from workers.machine.variables import PREFIX
from workers.settings import Settings

NODE = "workers.node"  # named only, as it needs the worker extra
LONGEST_PAUSE_SECONDS = 60.0  # between the restarts of a node that keeps ending
HOPELESS_FAILURES = 5
# Celery warns root of pickled messages from strangers; we accept JSON only, and a container has one user.
ROOT_WARNING = "ignore:You're running the worker with superuser privileges"
STEADY_SECONDS = 60.0  # a node that lived this long starts again at once
# The longest wait for killed children: with much memory they take a moment. Where nobody reaps orphans they never go.
GONE_SECONDS, GONE_LOOK_SECONDS = 2.0, 0.01
TOUCH_SECONDS = 3600.0  # between two signs that locks are in use, for what cleans /tmp of files that are days old

Say = Callable[[str], None]


@dataclass
class Node:
    """One supervised Celery worker."""

    slot: Slot
    locks: list[FileLock]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0  # in a row: it ended soon after its start
    faults: int = 0  # in a row: it ended because everything around it failed
    start_at: float = field(default_factory=time.monotonic)


class Launcher:
    """Nodes live and die with this process. Call `start` and, often, `tend`: both from the main thread.

    `settings` must hold absolute paths: nodes work in a folder of ours, so that a folder of the user's called `db`
    or `workers` is never imported. With `log_folder` each node writes a file there instead of to our stderr. Compiled
    kernels are kept in `compiled`, or else in the state folder.
    """

    def __init__(
        self,
        settings: Settings,
        slots: list[Slot],
        say: Say,
        log_folder: Path | None = None,
        compiled: Path | None = None,
    ) -> None:
        self._settings = settings
        self._slots = slots
        self._say = say
        self._log_folder = log_folder
        self._compiled = compiled or settings.state_dir / "compiled"
        self._nodes: list[Node] = []
        self._touch_at = time.monotonic() + TOUCH_SECONDS

    def start(self) -> None:
        """Take every slot, then start the nodes. Raises `UsageError` if another launcher has one of the slots."""
        self._nodes = [self._take(slot) for slot in self._slots]
        self.tend()

    def tend(self) -> None:
        """Start nodes that are due and notice those that ended."""
        for node in self._nodes:
            if node.process is not None and (code := node.process.poll()) is not None:
                self._ended(node, node.process, code)
            if node.process is None and time.monotonic() >= node.start_at:
                self._spawn(node)
        if time.monotonic() >= self._touch_at:
            self._touch_at = time.monotonic() + TOUCH_SECONDS
            self._touch()

    def _touch(self) -> None:
        """Renew the times of lock files, so that nobody cleans them out of /tmp and another launcher takes the slot."""
        for lock in (lock for node in self._nodes for lock in node.locks):
            with contextlib.suppress(OSError):
                os.utime(lock.lock_file)

    def drain(self) -> None:
        """Ask every node to commit the batch in hand and end. Returns at once; `running` tells how many still run."""
        for node in self._nodes:
            if node.process is not None and node.process.poll() is None:
                _signal_group(node.process, signal.SIGTERM)

    def running(self) -> int:
        return sum(node.process is not None and node.process.poll() is None for node in self._nodes)

    def failing(self) -> bool:
        """Whether every node has ended again and again right after its start. Faults of the surroundings do not count,
        as they may pass."""
        return bool(self._nodes) and all(node.failures >= HOPELESS_FAILURES for node in self._nodes)

    def kill(self) -> None:
        """Kill the nodes that still run, and free the slots.

        Afterwards the reconciler's last round finds the workers dead and takes back what they had in hand.
        """
        killed = [node.process for node in self._nodes if node.process is not None]
        for process in killed:
            _signal_group(process, signal.SIGKILL)
        until = time.monotonic() + GONE_SECONDS
        for process in killed:
            process.wait()
            while _has_members(process) and time.monotonic() < until:
                time.sleep(GONE_LOOK_SECONDS)
        for node in self._nodes:
            for lock in node.locks:
                lock.release()
        self._nodes = []

    def _ended(self, node: Node, process: subprocess.Popen[bytes], code: int) -> None:
        _signal_group(process, signal.SIGKILL)  # a child that outlived its Celery parent still has the GPU's memory
        lived = time.monotonic() - node.started
        if code == NODE_RENEWS:
            node.process, node.start_at = None, time.monotonic()
            self._say(f"{node.slot.name} ended to get rid of decoders that hang; starting it again")
            return
        broke = code == NODE_BROKE
        steady = lived >= STEADY_SECONDS * (10 if broke else 1)  # three faults in a row take their time
        if broke:
            node.failures, node.faults = 0, 1 if steady else node.faults + 1
        else:
            node.failures, node.faults = 0 if steady else node.failures + 1, 0
        in_a_row = node.failures + node.faults
        pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** min(in_a_row - 1, 10)) if in_a_row else 0.0
        node.process, node.start_at = None, time.monotonic() + pause
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        reason = "repeated faults, told above" if broke else reason
        self._say(f"{node.slot.name} ended ({reason}); starting it again in {pause:.0f} s")

    def _take(self, slot: Slot) -> Node:
        """Lock the slot and return a node for it, with another name if this machine has a node of the slot's name.

        Raises `UsageError` if another launcher has the slot.
        """
        card = self._lock(slot, slot.card or slot.name)
        if card is None:
            raise UsageError(
                f"{slot.name} is in use by another sam3-worker or sam3-run of yours; {_how_to_get_one(slot)}"
            )
        if slot.card is None:
            return Node(slot, [card])
        # Numbers are not enough: each of two jobs of a scheduler may call its only GPU 0.
        name = self._lock(slot, f"name {slot.name}")
        if name is not None:
            return Node(slot, [card, name])
        renamed = replace(slot, name=f"{slot.name}-{_short(slot.card)}")
        self._say(f"{slot.name} is called {renamed.name}: this machine has another node of that name")
        return Node(renamed, [card])

    def _lock(self, slot: Slot, key: str) -> FileLock | None:
        """The lock of this name, if it is free."""
        # A GPU is locked for the whole machine, a CPU slot only among launchers that share a state folder.
        shared = Path(tempfile.gettempdir()) / f"sam3-queue-{os.getuid()}"
        folder = self._settings.state_dir / "locks" if slot.device == "cpu" else shared
        private.make_folder(folder)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # another user could remove the locks
            raise UsageError(f"{folder} is not a folder of yours: remove it, or set TMPDIR to another place")
        lock = FileLock(private.make_file(folder / f"{_plain(key)}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _spawn(self, node: Node) -> None:
        home = private.make_folder(self._settings.state_dir / "nodes")
        with contextlib.ExitStack() as stack:
            output = None
            if self._log_folder is not None:
                log = private.make_folder(self._log_folder) / f"{node.slot.name}.log"
                output = stack.enter_context(private.make_file(log).open("ab"))
            node.process = subprocess.Popen(
                with_parent([sys.executable, "-P", "-W", ROOT_WARNING, "-m", NODE, node.slot.name]),
                cwd=home,
                env=self._environment(node.slot),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that Ctrl-C reaches this process only, which then stops its nodes
            )
        node.started = time.monotonic()

    def _environment(self, slot: Slot) -> dict[str, str]:
        own = self._settings.model_dump(exclude={"node", "device", "cores"}, exclude_none=True)
        cores = max(1, self._settings.cores // len(self._slots))
        return {
            # Threads of one computation: all cores for a model on the CPU; one beside a GPU, as several threads work.
            "OMP_NUM_THREADS": str(cores if slot.device == "cpu" else 1),
            # Compiled kernels are kept for all nodes of this machine. One node at a time compiles, on all cores.
            "TORCHINDUCTOR_CACHE_DIR": str(self._compiled),
            "TORCHINDUCTOR_COMPILE_THREADS": str(self._settings.cores),
            **(growing() if slot.grows else {}),
            **os.environ,
            **{PREFIX + name.upper(): str(value) for name, value in own.items()},
            f"{PREFIX}NODE": slot.name,
            f"{PREFIX}DEVICE": slot.device,
            f"{PREFIX}CORES": str(cores),
            **showing(slot.visible or ""),
        }


def _how_to_get_one(slot: Slot) -> str:
    if slot.device == "cpu":
        return "stop it first; one command starts several nodes with --num-gpus N"
    return "stop it first, or name other GPUs with --gpus"


def _plain(name: str) -> str:
    """Fit for a file's name and a node's, whatever a driver calls its GPUs; old ones put slashes between."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)


def _short(card: str) -> str:
    """As much of a UUID as tells GPUs apart; an old name of a slice goes on after it."""
    uuid, *slice_ = card.removeprefix("MIG-").removeprefix("GPU-").split("/")
    return _plain("-".join([uuid[:8], *slice_]))


def _has_members(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process of the node's group is left, as the child is for a moment after its parent."""
    try:
        os.killpg(process.pid, 0)
    except OSError:
        return False
    return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the Celery parent and the child that works."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
