"""What chaos acts on: servers, launchers, runs and their pictures. Breaks nothing itself."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from db.session import Sessions, read
from tests.chaos.kept import Kept
from tests.chaos.kinds import PROMPT, kind_of
from tests.chaos.verdict import prompts_of, unfinished
from tests.integration.faults.farm import descendants
from tests.integration.processes import parent_of
from tests.integration.valkey import Valkey
from tests.postgresql import Postgresql
from tests.terminals import Background, Terminal

LAUNCHERS = ("one", "two", "three")
RUNS_AT_ONCE = 4  # one of each kind
SETTLE_SECONDS = 900.0  # a chunk that was given back ten times in a row rests for 300, perhaps more than once
# When a mount goes, each node may have one batch that is partly read; when it comes back, all batches between its
# reading and its commit may have been found missing as a whole, and then the files are there again.
MOST_MISSED = len(LAUNCHERS) * 4 * (1 + 5)
CANARY = "canary-in-the-database-url"
CLOCKS = {
    "SAM3_BATCH_SIZE": "4",
    "SAM3_DECODE_THREADS": "1",
    "SAM3_LEASE_SECONDS": "3",
    "SAM3_HEARTBEAT_SECONDS": "0.5",
    "SAM3_RECONCILE_SECONDS": "0.5",
    "SAM3_ABSENT_SECONDS": "1",
    "SAM3_FAULT_PAUSE_SECONDS": "0.2",
    "SAM3_STALL_SECONDS": "10",
    "SAM3_GRACE": "10",
    "SAM3_SEGMENTER": "tests.chaos.models:made",
    "FAKE_SECONDS_PER_IMAGE": "0.01",
}


@dataclass
class World:
    """Everything that can break."""

    here: Terminal
    valkey: Valkey
    sessions: Sessions
    postgresql: Postgresql | None
    table: Path
    dice: random.Random
    launchers: dict[str, Background]
    runs: int = 0
    losses: int = 0  # of the mount
    cut: int = 0  # images whose answer at the end comes from tiles
    kept: list[Kept] = field(default_factory=list)  # what images had when the prompts of their run were changed
    changes: dict[str, tuple[str, str]] = field(default_factory=dict)  # by run: the last flag for that, and the prompt
    undo: dict[str, tuple[float, Callable[[], object]]] = field(default_factory=dict)  # when a fault is over, and how

    def start(self, name: str) -> None:
        self.launchers[name] = self.here.start(
            "sam3-worker", "--gpus", "cpu", SAM3_STATE_DIR=str(self.here.home / name)
        )

    def enqueue(self) -> None:
        """One more run; a producer that fails for a broken broker or database is asked again later."""
        if self.here.start("sam3-enqueue", *self.flags(f"run{self.runs + 1}")).process.wait(60) == 0:
            self.runs += 1

    def flags(self, name: str) -> tuple[str, ...]:
        """What sam3-enqueue is told of a run, with the prompts that it has at this moment."""
        prompts = read(self.sessions, prompts_of, name) or [PROMPT]
        return (*self.source, *self.settings(name), *(word for prompt in prompts for word in ("--prompt", prompt)))

    @property
    def source(self) -> tuple[str, ...]:
        return "--csv", str(self.table), "--image-root", str(self.images)

    def settings(self, name: str) -> tuple[str, ...]:
        return (*kind_of(name).flags, "--run", name, "--chunk-size", "20")

    @property
    def images(self) -> Path:
        return self.table.with_suffix("")

    def unfinished(self) -> Sequence[str]:
        """The names of the runs that are neither done nor cancelled."""
        return read(self.sessions, unfinished)

    def tend(self) -> None:
        """Start what ended, let go on what stood still for long enough, and keep some work at hand."""
        for name, (until, undo) in list(self.undo.items()):
            if time.monotonic() > until:
                del self.undo[name]
                undo()
        for name, launcher in list(self.launchers.items()):
            if launcher.process.poll() is not None:
                self.start(name)

    def heal(self) -> None:
        """Let every fault be over that lasts."""
        while self.undo:
            _, (_, undo) = self.undo.popitem()
            undo()

    def victim(self, depth: int) -> int | None:
        """A launcher (0), a Celery parent (1) or a child that works (2), if there is one."""
        launcher = self.launchers[self.dice.choice(LAUNCHERS)].process.pid
        found = [pid for pid in (launcher, *descendants(launcher)) if _depth(pid, launcher) == depth]
        return self.dice.choice(found) if found else None


def _depth(pid: int, top: int) -> int:
    """How far below the launcher; -1 if it is no longer there. A node's resource tracker counts as a child."""
    depth = 0
    with suppress(OSError):
        while pid != top:
            pid, depth = parent_of(pid), depth + 1
        return depth
    return -1
