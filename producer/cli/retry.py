"""`sam3-retry`: makes failed images pending again and rings their chunks."""

from typing import TYPE_CHECKING, Any

import click

from producer.cli.completion import complete_run
from producer.cli.flags.options import json_flag
from producer.cli.flags.tile_flags import chosen_tiling, tile_flags
from workers.cli import base
from workers.cli.base import counted, say
from workers.errors import ErrorClass, UsageError

if TYPE_CHECKING:
    from producer.cli.found import Found
    from producer.runs.operate import Tell

# Rejected rows belong to no chunk: the user corrects the CSV and enqueues it again.
RETRYABLE = [name.value for name in ErrorClass if name not in (ErrorClass.BAD_ROW, ErrorClass.BAD_PATH)]


@base.command("sam3-retry")
@click.argument("run", shell_complete=complete_run)
@click.option("--error-class", type=click.Choice(RETRYABLE), metavar="C", help="Only images that failed for this.")
@click.option("--chunk", type=click.IntRange(min=1), metavar="N", help="Only the failed images of this chunk.")
@click.option("--capped", is_flag=True, help="Not failed images, but done ones with a capped result.")
@tile_flags
@json_flag
def main(run: str, json: bool, **flags: Any) -> int:
    """Try a run's failed images again, and the cancelled ones of a cancelled run. Done images stay as they are, except
    with --capped. With --tile the images are cut into tiles from now on."""
    from db.session import read
    from db.steering import pause_of
    from producer.cli.found import find_run
    from producer.cli.progress import Meter
    from producer.cli.ring import ring
    from producer.cli.run_folder import go_on
    from producer.runs.operate import settle
    from producer.stopping import STOPPING

    found = find_run(run, *STOPPING)
    if adding := settle(found.sessions, found.run_id):
        say(f"{counted(adding, 'image')} to compute for prompts that were added")
    with Meter(f"retrying {found.name}", "images") as meter:
        moved = _retry(found, flags, meter.tell)
    found.refuse(*STOPPING)  # another command may have cancelled or deleted the run meanwhile
    queued = ring(found) if moved or adding else 0
    if json:
        base.print_json({"run": found.name, "images": moved, "queued": queued, "adding": adding})
        return 0
    click.echo(f"run {found.name}: {counted(moved, 'image')} to try again")
    if not (moved or adding):
        chosen = flags["error_class"] or flags["chunk"]
        say("no result is capped" if flags["capped"] else "nothing had failed" + (" that way" if chosen else ""))
    elif found.folder is not None:
        say(f"Next: {go_on(found.folder)}")
    elif (why := read(found.sessions, pause_of, found.run_id)) is not None:
        say(f"the run is paused {why}")
        say(f"Next: sam3-resume {found.argument}")
    else:
        say(f"Next: sam3-status {found.argument} --watch")
    return 0


def _retry(found: "Found", flags: dict[str, Any], tell: "Tell") -> int:
    """Make the images that the flags choose pending again; return how many these are."""
    from db.runs import RetryFilter
    from db.values import Redo
    from producer.cli.found import view_of
    from producer.runs.operate import retry
    from producer.runs.redo import redo

    tiling = chosen_tiling(flags)
    cut = None if tiling is None else str(tiling)
    if cut is not None and view_of(found).source.box_column is not None:
        raise UsageError(f"run {found.name} has boxes, which belong to whole images; leave --tile out")
    if cut is not None and view_of(found).frozen.looks_for_everything:
        raise UsageError(f"run {found.name} looks for everything, which is not made for tiles: leave --tile out")
    if not flags["capped"]:
        return retry(found.sessions, found.run_id, RetryFilter(flags["error_class"], flags["chunk"], cut), tell)
    if flags["error_class"] or flags["chunk"]:
        raise UsageError("--capped takes done images, --error-class and --chunk failed ones: give one of them")
    return redo(found.sessions, found.run_id, Redo.CAPPED, tell, cut)
