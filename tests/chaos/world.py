"""What chaos acts on: pictures and their CSV, servers, launchers and runs. Breaks nothing itself."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as Picture

from db.session import Sessions, read
from tests.chaos.verdict import COLOURS, SPECIAL, unfinished
from tests.integration.faults.farm import WHITE, descendants
from tests.integration.processes import parent_of
from tests.integration.valkey import Valkey
from tests.postgresql import Postgresql
from tests.terminals import Background, Terminal

IMAGES = 1000  # of each run
LAUNCHERS = ("one", "two", "three")
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
    "SAM3_SEGMENTER": "tests.fakes:FaultySegmenter",
    "FAKE_SECONDS_PER_IMAGE": "0.01",
}


NAMES = tuple(f"{row:04}.png" for row in range(1, IMAGES + 1))


def write_images(folder: Path) -> Path:
    """The images of every run, a few of them bad, and the CSV that names them."""
    folder.mkdir()
    for name in NAMES:
        path = folder / name
        Picture.new("RGB", (32, 24), COLOURS.get(name, WHITE)).save(path)
        match SPECIAL.get(name):
            case "truncated":
                path.write_bytes(path.read_bytes()[:60])
            case "missing":
                path.unlink()
            case "not_an_image":
                path.write_text("<html>404</html>")
    table = folder.with_suffix(".csv")  # not in the folder: that is lost now and then
    write_table(table, NAMES)
    return table


def write_table(table: Path, names: Sequence[str]) -> None:
    """Put a CSV with these images in the place of the old one, in one step, as a careful editor saves a file."""
    edited = table.with_suffix(".edited")
    edited.write_text("path\n" + "".join(f"{name}\n" for name in names))
    edited.replace(table)


def repaint(path: Path, size: tuple[int, int]) -> None:
    """Put another picture of this width and height in the place of the old one, in one step."""
    painted = path.with_suffix(".painted")
    Picture.new("RGB", size, WHITE).save(painted, format="PNG")
    painted.replace(path)


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
        """What sam3-enqueue is told of a run."""
        source = ("--csv", str(self.table), "--image-root", str(self.images))
        return (*source, "--prompt", "person", "--run", name, "--chunk-size", "20")

    @property
    def images(self) -> Path:
        return self.table.with_suffix("")

    def size_of(self, name: str) -> tuple[int, int]:
        """Width and height of the picture as it is now."""
        with Picture.open(self.images / name) as picture:
            return picture.size

    def unfinished(self) -> int:
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
