"""What can break, once a second: processes, servers, mounts, files and what an operator does. Judges nothing."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import psycopg
import redis

from db.session import read
from tests.chaos.changes import ADD, DROP, change, change_beside, change_half
from tests.chaos.kinds import TILE_FLAGS
from tests.chaos.pictures import IMAGES, NAMES, SPECIAL, repaint, write_table
from tests.chaos.verdict import runs_that_read_nothing
from tests.chaos.world import LAUNCHERS, World
from tests.integration.faults.farm import descendants
from tests.terminals import Background
from tests.workers import runs

SHARE_OF_DELETES = 0.3


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


def repeat_doorbells(client: redis.Redis, queue: str) -> None:
    for message in client.lrange(queue, 0, 20):
        client.rpush(queue, message, message)


def post_garbage(client: redis.Redis, queue: str) -> None:
    client.lpush(queue, "{}", "no JSON at all", '{"body": "", "headers": {}, "properties": {}}')


def again(world: World, command: str, *flags: str) -> Background | None:
    """An operator who changes his mind, or is not sure whether it worked the first time."""
    if not world.runs or "mount lost" in world.undo:  # a run that has read nothing yet could not tell
        return None
    name = f"run{world.dice.randint(1, world.runs)}"
    return world.here.start(command, *(world.flags(name) if command == "sam3-enqueue" else (name,)), *flags)


def break_off(world: World, command: str, *flags: str) -> None:
    """A command that is killed somewhere on its way, perhaps before it has begun."""
    if (started := again(world, command, *flags)) is not None:
        time.sleep(world.dice.uniform(0.5, 3))
        with suppress(ProcessLookupError):
            started.kill_group()


def delete_half(world: World) -> None:
    """Not often: what is deleted cannot be judged at the end."""
    if world.dice.random() < SHARE_OF_DELETES:
        break_off(world, "sam3-delete", "--yes")


def pause(world: World) -> None:
    """Some runs are held for some seconds, whatever is restarted meanwhile."""
    going = world.unfinished()
    for name in world.dice.sample(going, -(-len(going) // 2)):
        world.here.start("sam3", "pause", name)
        resume = partial(world.here.start, "sam3", "resume", name)
        world.undo[f"{name} paused"] = time.monotonic() + world.dice.uniform(1, 8), resume


def steer(world: World) -> None:
    """Another turn for a run, and perhaps a budget that a lost mount uses up."""
    if going := world.unfinished():
        turn = ("--priority", str(world.dice.randint(-2, 2)), "--share", str(world.dice.choice((0.3, 0.7, 1))))
        budget = world.dice.choice(("never", "never", "20% failed of 50"))
        world.here.start("sam3", "set", world.dice.choice(going), *turn, "--stop-after", budget)


def edit_table(world: World) -> None:
    """Another order, and some rows left out, which a later edit brings back."""
    names = world.dice.sample(NAMES, world.dice.randint(IMAGES - 20, IMAGES))
    write_table(world.table, names)


def change_pictures(world: World) -> None:
    if "mount lost" not in world.undo:
        for name in world.dice.sample(sorted(set(NAMES) - SPECIAL.keys()), 3):
            repaint(world.images / name, world.dice)


def export_some(world: World) -> None:
    """In the middle of whatever goes on; the files of the end are held against SQL."""
    kind = world.dice.choice(("csv", "coco", "png"))
    again(world, "sam3-export", "--format", kind, "--partial", "-o", f"middle-{kind}-{world.dice.randint(1, 3)}")


def end_backends(world: World) -> None:
    if world.postgresql is not None:
        with psycopg.connect(world.postgresql.url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'chaos'")


def restart_postgresql(world: World) -> None:
    if world.postgresql is not None:
        world.postgresql.restart()


def faults(world: World) -> dict[str, Callable[[World], object]]:
    queue = runs.queue(world.sessions)
    common: dict[str, Callable[[World], object]] = {
        "child killed": lambda world: kill(world, 2),
        "node killed": lambda world: kill(world, 1),
        "machine killed": lambda world: kill(world, 0),
        "stood still": stop,
        "worker drained": drain,
        "broker restarted": lambda world: restart_broker(world, False),
        "broker emptied": lambda world: restart_broker(world, True),
        "FLUSHALL": on_broker(lambda client: client.flushall()),
        "clients cut off": on_broker(lambda client: client.client_kill_filter(_type="normal")),
        "doorbells repeated": on_broker(lambda client: repeat_doorbells(client, queue)),
        "garbage posted": on_broker(lambda client: post_garbage(client, queue)),
        "mount lost": lose_mount,
        "enqueued again": lambda world: again(world, "sam3-enqueue"),
        "redone if changed": lambda world: again(world, "sam3-enqueue", "--redo", "changed"),
        "cancel broken off": lambda world: break_off(world, "sam3-cancel"),
        "delete broken off": delete_half,
        "CSV edited": edit_table,
        "pictures changed": change_pictures,
        "exported in the middle": export_some,
        "run cancelled": lambda world: again(world, "sam3-cancel"),
        "prompt added": lambda world: change(world, ADD),
        "prompt dropped": lambda world: change(world, DROP),
        "change of prompts broken off": change_half,
        "prompt added beside another command": change_beside,
        "runs paused": pause,
        "run steered": steer,
        "run retried": lambda world: again(world, "sam3-retry"),
        "retried in tiles": lambda world: again(world, "sam3-retry", *TILE_FLAGS),
        "capped in tiles": lambda world: again(world, "sam3-retry", "--capped", *TILE_FLAGS),
    }
    if world.postgresql is None:
        return common
    return common | {"database restarted": restart_postgresql, "backends ended": end_backends}
