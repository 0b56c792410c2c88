"""Runs of coloured images, workers that are to suffer, and the verdict on what became of every image."""

import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Picture
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.claims import MAX_ATTEMPTS
from db.models import Chunk, Image, Result, Worker
from db.session import Sessions, read
from db.states import LIVE, ImageState
from tests import twins
from tests.db import audit, scenario
from tests.integration.processes import parent_of
from tests.terminals import Background, Terminal, wait_until
from tests.workers import runs

WHITE = (255, 255, 255)
PROJECT = Path(__file__).parents[3]
TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?P<frames>(?:[ \t].*\n)*)(?P<error>.*)", re.MULTILINE)
OUR_FRAME = re.compile(rf'File "{re.escape(str(PROJECT))}/((?:db|producer|tests|workers)/[^"]*)"')
# Our transport stands between Celery and redis, and hands on what redis says of a broker that went away.
BROKER_AWAY = re.compile(r"redis\.exceptions\.(ConnectionError|TimeoutError)\b")
TRANSPORT = "workers/broker/transport.py"
Colour = tuple[int, int, int]


def load(
    sessions: Sessions,
    folder: Path,
    count: int,
    special: dict[int, Colour] | None = None,
    chunk_size: int = 16,
    name: str = "faces",
) -> int:
    """An active run of `count` images, white but for the `special` ones, by row from 1."""
    folder.mkdir(exist_ok=True)
    for row in range(1, count + 1):
        Picture.new("RGB", (32, 24), (special or {}).get(row, WHITE)).save(folder / f"{row:04}.png")
    return runs.load(
        sessions, folder, scenario.rows(*(f"{row:04}.png" for row in range(1, count + 1))), name, chunk_size
    )


def start(here: Terminal, name: str = "one", *flags: str, slow: float = 0.02, **environment: str) -> Background:
    """A launcher with nodes of its own, as on another machine."""
    return here.start(
        "sam3-worker",
        "--gpus",
        "cpu",
        *flags,
        SAM3_STATE_DIR=str(here.home / name),
        FAKE_SECONDS_PER_IMAGE=str(slow),
        **environment,
    )


def busy_child(sessions: Sessions, *, but: Sequence[int] = ()) -> int:
    """The process that works on a chunk, once there is one."""
    found: list[int] = []

    def look() -> bool:
        rows = read(
            sessions, lambda session: session.execute(select(Worker.pid).where(Worker.state == "running")).all()
        )
        found[:] = [row.pid for row in rows if row.pid not in but]
        return bool(found)

    wait_until(look, "a worker with a chunk")
    return found[0]


def results(sessions: Sessions) -> int:
    return read(sessions, lambda session: session.execute(select(func.count()).select_from(Result)).scalar_one())


def some_results(sessions: Sessions, more: int = 1, before: int | None = None) -> None:
    """Wait until so many more images are done than now, or than `before`."""
    enough = (results(sessions) if before is None else before) + more
    wait_until(lambda: results(sessions) >= enough, "commits")


def is_over(sessions: Sessions, run_id: int) -> bool:
    return scenario.run(sessions, run_id).state in ("done", "cancelled")


def finish(sessions: Sessions, run_id: int) -> None:
    wait_until(lambda: is_over(sessions, run_id), "the run")


@dataclass(frozen=True)
class Verdict:
    """Jepsen's words, in images: rows that came in, that ended, that did not, that ended twice, and with a result that
    was not their owner's to commit."""

    attempted: int
    acknowledged: int
    lost: int
    duplicated: int
    unexpected: int


def judge(session: Session, run_id: int) -> Verdict:
    """The last two are told by the triggers of `tests.db.audit`: when all is over the rows look alike."""
    states = Counter(session.execute(select(Image.state).where(Image.run_id == run_id)).scalars())
    not_done = (
        select(Image.id).join(Result, Result.image_id == Image.id).where(Image.run_id == run_id, Image.state != "done")
    )
    return Verdict(
        attempted=sum(states.values()),
        acknowledged=sum(states.values()) - states[ImageState.PENDING],
        lost=states[ImageState.PENDING],
        duplicated=len(audit.ended_twice(session, run_id)),
        unexpected=len(audit.unexpected(session, run_id) | set(session.execute(not_done).scalars())),
    )


def check(sessions: Sessions, run_id: int, failed: dict[int, str] | None = None) -> None:
    """Nothing lost, nothing twice, and only these rows failed, of this. (The counters are recounted by `sessions`.)"""
    verdict = read(sessions, judge, run_id)
    assert verdict == Verdict(verdict.attempted, verdict.attempted, 0, 0, 0)
    images = scenario.images(sessions, run_id)
    assert {image.row: image.error_class for image in images if image.state == "failed"} == (failed or {})
    assert {image.state for image in images} <= {"done", "failed"}
    chunks = scenario.chunks(sessions, run_id)
    assert not [chunk.number for chunk in chunks if chunk.state in LIVE]
    assert max(chunk.attempts for chunk in chunks) <= MAX_ATTEMPTS


def end(worker: Background, code: int | None = 130) -> str:
    """Ctrl-C; what it said."""
    worker.interrupt()
    return worker.wait(code=code)


def bugs_told(home: Path, expected: Collection[str] = ()) -> list[str]:
    """Tracebacks with a line of our own code in any log, but for those that end in one of the `expected` errors.

    Celery's own are none of ours: of a child that died (WorkerLostError), of a broker that went away.
    """
    return [
        f"{log.name}: {found['error']}"
        for log in sorted(home.glob("*.log"))
        for found in TRACEBACK.finditer(log.read_text(errors="replace"))
        if _is_ours(found["frames"], found["error"])
        and found["error"].partition(":")[0].rpartition(".")[2] not in expected
    ]


def _is_ours(frames: str, error: str) -> bool:
    files = set(OUR_FRAME.findall(frames))
    return bool(files - {TRANSPORT}) or (bool(files) and not BROKER_AWAY.match(error))


def crashes(said: str) -> int:
    """How many processes of a node ended before their time, as Celery tells it."""
    return said.count("WorkerLostError: Worker exited prematurely")


def halt_in_hand(
    sessions: Sessions, halt: Callable[[], object], go_on: Callable[[], object], begun: bool = False
) -> int:
    """Halt something while a worker has a chunk in hand, from which results are to come; how many there were before.

    With `begun` one of the chunk's batches is in the database, so that the worker surely knows that it has the chunk.
    """
    before: list[int] = []

    def held() -> bool:
        running = read(
            sessions, lambda session: session.execute(select(Chunk).filter_by(state="running")).scalars().all()
        )
        return any(chunk.segmented or not begun for chunk in running)

    def halted() -> bool:
        if not held():
            return False
        halt()
        before[:] = [results(sessions)]
        if held() and not _is_locked(sessions):
            return True
        go_on()  # the chunk was just finished, or a transaction was open that everybody else would wait for
        return False

    wait_until(halted, "a chunk in hand")
    return before[0]


def _is_locked(sessions: Sessions) -> bool:
    """Whether somebody is in the middle of writing to a SQLite database."""
    url = sessions.kw["bind"].url
    if url.get_backend_name() != "sqlite":
        return False
    with closing(sqlite3.connect(url.database, timeout=0, isolation_level=None)) as probe:
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


def stop_in_hand(launcher: Background, sessions: Sessions) -> None:
    """Stop a launcher and everything that it started while it holds a chunk, as if its machine stood still."""
    halt_in_hand(sessions, lambda: signal_all(launcher, signal.SIGSTOP), lambda: signal_all(launcher, signal.SIGCONT))


def signal_all(launcher: Background, number: signal.Signals) -> None:
    """Signal a launcher and everything that it started and that is still there."""
    for pid in [launcher.process.pid, *descendants(launcher.process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Whoever descends from the process, but for what only the tests have there."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == twins.NAME:
                    continue
                children.setdefault(parent_of(int(entry.name)), []).append(int(entry.name))
            except OSError:
                continue
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def forwards(here: Terminal) -> int:
    """Images that went through a forward pass, the one of each self-test included."""
    lines = Path(here.environment["FAKE_LOG"]).read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines)
