"""An operator who adds prompts to runs and drops some, at any moment and beside anything else. Judges nothing."""

import time
from contextlib import suppress
from functools import partial

from db.session import read
from tests.chaos.kept import kept
from tests.chaos.kinds import PROMPTS, TILE_FLAGS
from tests.chaos.verdict import is_unsettled, prompts_of
from tests.chaos.world import World
from tests.terminals import Background

ADD, DROP = "--add-prompt", "--drop-prompt"
PASS_SECONDS = 10.0  # to wait for a change to begin, which a lost broker or a lock may delay


def change(world: World, flag: str) -> tuple[str, Background] | None:
    """Begin to change the prompts of some run, and remember what its images have: the run, and the command."""
    if not world.runs or "mount lost" in world.undo:
        return None
    name = f"run{world.dice.randint(1, world.runs)}"
    has = read(world.sessions, prompts_of, name)
    choice = [prompt for prompt in PROMPTS if prompt not in has] if flag == ADD else has
    before = read(world.sessions, kept, name)
    if before is None or not choice:
        return None
    if before.images:
        world.kept.append(before)
    world.changes[name] = flag, world.dice.choice(choice)
    return name, world.here.start("sam3-enqueue", *world.source, *world.settings(name), *world.changes[name])


def change_half(world: World) -> None:
    """Killed between the new prompts and the end of the pass that makes the run's images follow them."""
    if (begun := change(world, world.dice.choice((ADD, ADD, DROP)))) is None:
        return
    name, command = begun
    deadline = time.monotonic() + PASS_SECONDS
    while command.process.poll() is None and time.monotonic() < deadline:
        if read(world.sessions, is_unsettled, name):
            break
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        command.kill_group()


def change_beside(world: World) -> None:
    """Together with another command on the same run."""
    if (begun := change(world, ADD)) is None:
        return
    name, _ = begun
    commands = (
        ("sam3-cancel", name),
        ("sam3-retry", name),
        ("sam3-retry", name, "--capped", *TILE_FLAGS),
        ("sam3-enqueue", *world.flags(name), "--redo", "changed"),
        ("sam3", "pause", name),
    )
    other = world.dice.choice(commands)
    world.here.start(*other)
    if "pause" in other:
        resume = partial(world.here.start, "sam3", "resume", name)
        world.undo[f"{name} paused"] = time.monotonic() + world.dice.uniform(1, 8), resume


def change_again(world: World) -> list[str]:
    """The last command of each run once more, as after a kill; what did not come of it."""
    odd = []
    for name, (flag, prompt) in world.changes.items():
        if not read(world.sessions, prompts_of, name):
            continue  # the run is deleted
        command = world.here.start("sam3-enqueue", *world.source, *world.settings(name), flag, prompt)
        command.process.wait()
        has = read(world.sessions, prompts_of, name)
        # The only prompt that is left cannot be dropped. One that was never added cannot be dropped either.
        if (prompt in has) != (flag == ADD) and has != [prompt]:
            odd.append(f"{name}: {flag} {prompt} once more, and it has {', '.join(has)}: {command.output()[-300:]}")
    return odd
