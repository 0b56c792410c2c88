"""`python -m tests.chaos`: real workers, broker and database, something broken every second, and what came of it.

The two models are simulated (`tests.chaos.models`) and clocks run twenty times as fast; all else is real.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from db.migrate import upgrade
from db.session import connect, read
from db.states import RunState
from db.views.run_views import paused_runs
from tests.chaos.answers import recorded, strange
from tests.chaos.changes import change_again
from tests.chaos.exports import disagreements
from tests.chaos.faults import faults
from tests.chaos.kept import compare
from tests.chaos.kinds import TILE_FLAGS, kind_of
from tests.chaos.pictures import NAMES, write_images, write_table
from tests.chaos.verdict import capped, incomplete, leftovers, rows_missed, verdicts
from tests.chaos.world import CANARY, CLOCKS, LAUNCHERS, MOST_MISSED, RUNS_AT_ONCE, SETTLE_SECONDS, World
from tests.db import audit
from tests.integration.faults.farm import Verdict, bugs_told
from tests.integration.valkey import Valkey
from tests.postgresql import serve
from tests.quick_start import Forerunner
from tests.terminals import Terminal


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
        here.forerunner = Forerunner()
        stack.callback(here.forerunner.close)
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
        if len(world.unfinished()) < RUNS_AT_ONCE and "mount lost" not in world.undo:
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
    let_go_on(world)
    wait_for_the_end(world)
    odd: list[str] = []
    missed = read(world.sessions, rows_missed)
    print(f"all is quiet; {missed} images failed around {world.losses} losses of the mount", flush=True)
    if missed > world.losses * MOST_MISSED:
        odd.append("so many can only have failed because a lost mount was not noticed")
    odd += change_again(world)
    wait_for_the_end(world)
    tidy_up(world)
    wait_for_the_end(world)
    complete(world)
    redo_changed(world)
    wait_for_the_end(world)
    odd += answers(world)
    cut_what_is_capped(world)
    wait_for_the_end(world)
    odd += answers(world)
    for name in done_runs(world):
        odd += disagreements(world, name)
        if not kind_of(name).boxes and (left := read(world.sessions, capped, name)):
            odd.append(f"{name}: {left} images are capped, although they were to be cut")
    return odd


def done_runs(world: World) -> list[str]:
    return [name for name, state, *_ in read(world.sessions, leftovers) if state == RunState.DONE]


def answers(world: World) -> list[str]:
    """One line for each way in which the answers of a run are not what its pictures give alone, as they are now."""
    odd: list[str] = []
    world.cut = 0
    for name, state, *_ in read(world.sessions, leftovers):
        images = read(world.sessions, recorded, name)
        odd += strange(name, world.images, images, state == RunState.DONE)
        world.cut += sum(image.is_cut for image in images)
    return odd


def cut_what_is_capped(world: World) -> None:
    """But for runs with boxes, which are refused."""
    for name in done_runs(world):
        if not kind_of(name).boxes:
            world.here.run("sam3-retry", name, "--capped", *TILE_FLAGS)


def complete(world: World) -> None:
    """Retry images that lack results of prompts that were added, until none does."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        lacking = [name for name in done_runs(world) if read(world.sessions, incomplete, name)]
        if not lacking:
            return
        for name in lacking:
            world.here.run("sam3-retry", name)
        wait_for_the_end(world)


def redo_changed(world: World) -> None:
    """The CSV as it was at first, and every picture as it is now, in each run that is done."""
    write_table(world.table, NAMES)
    for name in done_runs(world):
        world.here.run("sam3-enqueue", *world.flags(name), "--redo", "changed")


def let_go_on(world: World) -> None:
    """Resume what is paused, by an operator or by a budget. A command that still runs may pause a run once more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (paused := read(world.sessions, paused_runs)) and time.monotonic() < deadline:
        for name in paused:
            world.here.start("sam3", "set", name, "--stop-after", "never").wait(code=None)
            world.here.start("sam3", "resume", name).wait(code=None)


def wait_for_the_end(world: World) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while world.unfinished() and time.monotonic() < deadline:
        world.tend()
        let_go_on(world)
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
    more["cut"] = world.cut
    more["kept"], changed = read(world.sessions, compare, world.kept)
    wrong += odd + changed
    wrong += [f"a bug: {told}" for told in bugs_told(world.here.home, expected={"Infrastructure", "Unforeseen"})]
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
