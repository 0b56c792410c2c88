"""The flag `--redo` of the commands that record a run, and what they say about changed images. Opens no image."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from db.values import Redo
from workers.cli.base import counted, say

if TYPE_CHECKING:
    from db.session import Sessions

redo_flag = click.option(
    "--redo",
    type=click.Choice([str(which) for which in Redo]),
    help="Compute again: images whose file changed since it was read, failed, all, empty or capped ones.",
)


def take_up(sessions: "Sessions", run_id: int, flags: dict[str, Any]) -> dict[str, int]:
    """Make the images that --redo chooses pending again. Without --redo say how many images changed since they were
    read. Returns the numbers for JSON."""
    from producer.cli.progress import Meter
    from producer.runs.redo import look_for_changes, redo

    facts = {"redone": 0, "changed": 0, "missing": 0}
    if flags["redo"] is not None:
        with Meter(f"taking up {flags['redo']} images", "images") as meter:
            facts["redone"] = redo(sessions, run_id, Redo(flags["redo"]), meter.tell)
        say(f"{counted(facts['redone'], 'image')} to compute again")
    elif not flags.get("no_check"):
        changes = look_for_changes(sessions, run_id)
        for line in changes.lines():
            say(line)
        facts |= {"changed": changes.changed, "missing": changes.missing}
    return facts


def foretell(sessions: "Sessions", run_id: int, flags: dict[str, Any]) -> int:
    """How many images of the run --redo, if it is given, would make pending again."""
    from producer.cli.progress import Meter
    from producer.runs.redo import rehearse

    if flags["redo"] is None:
        return 0
    with Meter(f"looking for {flags['redo']} images", "images") as meter:
        return rehearse(sessions, run_id, Redo(flags["redo"]), meter.tell)


def without_redo(arguments: Iterable[str]) -> list[str]:
    """These arguments of a command without --redo and its value."""
    given = list(arguments)
    if "--redo" in given:
        at = given.index("--redo")
        given[at : at + 2] = []
    return [argument for argument in given if not argument.startswith("--redo=")]
