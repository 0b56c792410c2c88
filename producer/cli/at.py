"""Shows what other thresholds would find in a run, for `sam3-status RUN --at`. Reads SQL only; declares no flags."""

import shlex
from typing import Any

from db.states import RunState
from producer.cli.console import console
from producer.cli.flags.choice_flags import choice
from producer.cli.found import find_run, view_of
from producer.cli.progress import Meter
from producer.results.files.targets import free_file
from producer.results.tally import table, tallies
from workers.cli import base
from workers.cli.base import say


def show(run: str, thresholds: tuple[str, ...], flags: dict[str, Any], *, json: bool) -> int:
    """Show what each of these thresholds would find, with the same other flags; return the exit code of the command.

    Raises `Sam3Error`.
    """
    found = find_run(run, RunState.DELETING)
    view = view_of(found)
    choices = [choice(view, [text], flags, "--at") for text in thresholds]
    with Meter("counting", "images") as meter:
        counted = tallies(found.sessions, view, choices, lambda done: meter.tell(done, view.images))
    if json:
        base.print_json({"run": found.name, "at": [one.as_json() for one in counted]})
        return 0
    console().print(table(counted))
    file = shlex.quote(free_file(f"{view.name}-at", ".csv"))
    part = [] if view.over else ["--partial"]
    how = shlex.join([*part, *choices[-1].typed(view)])
    say(f"Next: sam3-export {found.argument} {how + ' ' if how else ''}--format csv -o {file}")
    return 0
