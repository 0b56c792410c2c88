"""`python -m tests.chaos`: real workers, broker and database, something broken every second, and what came of it.

The model is simulated (`tests.fakes.FaultySegmenter`) and clocks run twenty times as fast; all else is real.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis
from PIL import Image as Picture
from sqlalchemy.engine import make_url

from db.migrate import upgrade
from db.models import RunState
from db.session import Sessions, connect, read
from tests.chaos.verdict import COLOURS, SPECIAL, leftovers, rows_missed, runs_that_read_nothing, unfinished, verdicts
from tests.db import audit
from tests.integration.faults.farm import WHITE, Verdict, bugs_told, descendants
from tests.integration.processes import parent_of
from tests.integration.valkey import Valkey
from tests.postgresql import Postgresql, serve
from tests.terminals import Background, Terminal
from workers.contract import QUEUE

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


def write_images(folder: Path) -> Path:
    """The images of every run, a few of them bad, and the CSV that names them."""
    folder.mkdir()
    for row in range(1, IMAGES + 1):
        path = folder / f"{row:04}.png"
        Picture.new("RGB", (32, 24), COLOURS.get(row, WHITE)).save(path)
        match SPECIAL.get(row):
            case "truncated":
                path.write_bytes(path.read_bytes()[:60])
            case "missing":
                path.unlink()
            case "not_an_image":
                path.write_text("<html>404</html>")
    table = folder.with_suffix(".csv")  # not in the folder: that is lost now and then
    table.write_text("path\n" + "".join(f"{row:04}.png\n" for row in range(1, IMAGES + 1)))
    return table


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


def kill(world: World, depth: int) -> None:
    pid = world.victim(depth)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop(world: World) -> None:
    """A child, a parent or a whole machine stands still for up to two leases."""
    pid = world.victim(world.dice.randrange(3))
    if "stood still" not in world.undo and pid is not None:
        pids = (pid, *descendants(pid))
        signal_all(pids, signal.SIGSTOP)
        until = time.monotonic() + world.dice.uniform(1, 6)
        world.undo["stood still"] = until, lambda: signal_all(pids, signal.SIGCONT)


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def lose_mount(world: World) -> None:
    """The images are away for some seconds, but only while every run that goes on can tell by what it has read."""
    away = world.images.with_name("away")
    if "mount lost" not in world.undo and not read(world.sessions, runs_that_read_nothing):
        world.images.rename(away)
        world.losses += 1
        until = time.monotonic() + world.dice.uniform(1, 4)
        world.undo["mount lost"] = until, lambda: away.rename(world.images)


def drain(world: World) -> None:
    world.launchers[world.dice.choice(LAUNCHERS)].process.terminate()


def restart_broker(world: World, forgets: bool) -> None:
    world.valkey.kill()
    if forgets:
        world.valkey.forget()
    world.valkey.start()


def on_broker(work: Callable[[redis.Redis], object]) -> Callable[[World], None]:
    def fault(world: World) -> None:
        with suppress(redis.RedisError):
            work(world.valkey.client)

    return fault


def repeat_doorbells(client: redis.Redis) -> None:
    for message in client.lrange(QUEUE, 0, 20):
        client.rpush(QUEUE, message, message)


def post_garbage(client: redis.Redis) -> None:
    client.lpush(QUEUE, "{}", "no JSON at all", '{"body": "", "headers": {}, "properties": {}}')


def again(world: World, command: str) -> None:
    """An operator who changes his mind, or is not sure whether it worked the first time."""
    if not world.runs or "mount lost" in world.undo:  # a run that has read nothing yet could not tell
        return
    name = f"run{world.dice.randint(1, world.runs)}"
    world.here.start(command, *(world.flags(name) if command == "sam3-enqueue" else (name,)))


def end_backends(world: World) -> None:
    if world.postgresql is not None:
        with psycopg.connect(world.postgresql.url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'chaos'")


def restart_postgresql(world: World) -> None:
    if world.postgresql is not None:
        world.postgresql.restart()


def faults(world: World) -> dict[str, Callable[[World], None]]:
    common: dict[str, Callable[[World], None]] = {
        "child killed": lambda world: kill(world, 2),
        "node killed": lambda world: kill(world, 1),
        "machine killed": lambda world: kill(world, 0),
        "stood still": stop,
        "worker drained": drain,
        "broker restarted": lambda world: restart_broker(world, False),
        "broker emptied": lambda world: restart_broker(world, True),
        "FLUSHALL": on_broker(lambda client: client.flushall()),
        "clients cut off": on_broker(lambda client: client.client_kill_filter(_type="normal")),
        "doorbells repeated": on_broker(repeat_doorbells),
        "garbage posted": on_broker(post_garbage),
        "mount lost": lose_mount,
        "enqueued again": lambda world: again(world, "sam3-enqueue"),
        "run cancelled": lambda world: again(world, "sam3-cancel"),
        "run retried": lambda world: again(world, "sam3-retry"),
    }
    if world.postgresql is None:
        return common
    return common | {"database restarted": restart_postgresql, "backends ended": end_backends}


@contextmanager
def made(database: str, seed: int) -> Iterator[World]:
    """Servers, images and launchers, all of which end with the block."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sam3-chaos-", ignore_cleanup_errors=True)))
        postgresql = stack.enter_context(serve()) if database == "postgresql" else None
        url = f"sqlite:///{home / 'sam3.db'}"
        if postgresql is not None:
            with psycopg.connect(postgresql.url, autocommit=True) as admin:
                admin.execute("CREATE DATABASE chaos")
            parsed = make_url(postgresql.url).set(database="chaos", password=CANARY)
            url = parsed.render_as_string(hide_password=False)
        sessions = connect(url)
        stack.callback(sessions.kw["bind"].dispose)
        upgrade(sessions)
        audit.install(sessions)
        valkey = Valkey(home / "broker")
        stack.callback(valkey.close)
        valkey.start()
        valkey.wait_until_ready()
        here = Terminal(home, SAM3_DATABASE_URL=url, SAM3_BROKER_URL=valkey.url, **CLOCKS)
        stack.callback(here.close)
        world = World(here, valkey, sessions, postgresql, write_images(home / "in"), random.Random(seed), {})
        stack.callback(world.heal)
        for name in LAUNCHERS:
            world.start(name)
        yield world


def torment(world: World, seconds: float) -> Counter[str]:
    """Break something every second or so until the time is over; what it was, and how often."""
    began, done, told = time.monotonic(), Counter[str](), 0.0
    known = faults(world)
    while (spent := time.monotonic() - began) < seconds:
        world.tend()
        if world.unfinished() < 2 and "mount lost" not in world.undo:
            world.enqueue()
        name = world.dice.choice(sorted(known))
        known[name](world)
        done[name] += 1
        if spent > told:
            told += 10
            print(f"{spent:4.0f} s: {world.runs} runs, {sum(done.values())} faults, last: {name}", flush=True)
        time.sleep(world.dice.uniform(0.5, 1.5))
    return done


def settle(world: World) -> list[str]:
    """No more faults: everything must come to its end by itself, and then the operator tidies up. What was odd."""
    world.heal()
    wait_for_the_end(world)
    odd: list[str] = []
    missed = read(world.sessions, rows_missed)
    print(f"all is quiet; {missed} images failed around {world.losses} losses of the mount", flush=True)
    if missed > world.losses * MOST_MISSED:
        odd.append("so many can only have failed because a lost mount was not noticed")
    tidy_up(world)
    wait_for_the_end(world)
    return odd


def wait_for_the_end(world: World) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while world.unfinished() and time.monotonic() < deadline:
        world.tend()
        time.sleep(0.5)


def tidy_up(world: World) -> None:
    """Finish cancels that broke off; take up what a lost mount failed and every other cancelled run."""
    for number, (name, state, cancelled, missed) in enumerate(read(world.sessions, leftovers)):
        if state == RunState.CANCELLED:
            world.here.run("sam3-cancel", name)
        if cancelled and (number % 2 or state == RunState.DONE):
            world.here.run("sam3-retry", name)
        elif missed and state == RunState.DONE:
            world.here.run("sam3-retry", name, "--error-class", "missing")


def report(world: World, done: Counter[str], wrong: list[str], title: str) -> bool:
    """Print the table; whether all is well. `wrong` is what was odd so far."""
    total, more, odd = read(world.sessions, verdicts)
    wrong += odd + [f"a bug: {told}" for told in bugs_told(world.here.home, expected={"Infrastructure"})]
    for log in world.here.home.glob("*.log"):
        if CANARY in log.read_text(errors="replace"):
            wrong.append(f"{log.name} holds a password")
    print(f"\n{title}: {world.runs} runs, {sum(done.values())} faults")
    print("  " + ", ".join(f"{count} {name}" for name, count in sorted(done.items())))
    columns = {word: getattr(total, word) for word in Verdict.__dataclass_fields__} | more
    print("\n" + " ".join(f"{word:>13}" for word in columns))
    print(" ".join(f"{count:>13,}" for count in columns.values()))
    for line in wrong:
        print(f"WRONG: {line}")
    return not wrong and not total.lost + total.duplicated + total.unexpected and total.attempted > 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with made(given.database, given.seed) as world:
        done = torment(world, 60 * given.minutes)
        wrong = settle(world)
        well = report(world, done, wrong, f"{given.minutes:g} minutes on {given.database}, seed {given.seed}")
        if not well:
            print(f"logs are kept in {keep(world)}", file=sys.stderr)
    print("nothing lost, nothing twice" if well else "NOT as it must be")
    return 0 if well else 1


def keep(world: World) -> Path:
    """A copy of the logs that outlives the folder."""
    kept = Path(tempfile.mkdtemp(prefix="sam3-chaos-logs-"))
    for log in world.here.home.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    return kept


if __name__ == "__main__":
    sys.exit(main())
