"""`sam3-retry`: makes failed images pending again and rings their chunks."""

import click

from producer.cli.completion import complete_run
from producer.cli.options import json_flag
from workers.cli import base
from workers.cli.base import counted, say
from workers.errors import ErrorClass

# Rejected rows belong to no chunk: the user corrects the CSV and enqueues it again.
RETRYABLE = [name.value for name in ErrorClass if name not in (ErrorClass.BAD_ROW, ErrorClass.BAD_PATH)]


@base.command("sam3-retry")
@click.argument("run", shell_complete=complete_run)
@click.option("--error-class", type=click.Choice(RETRYABLE), metavar="C", help="Only images that failed for this.")
@click.option("--chunk", type=click.IntRange(min=1), metavar="N", help="Only the failed images of this chunk.")
@json_flag
def main(run: str, error_class: str | None, chunk: int | None, json: bool) -> int:
    """Try a run's failed images again, and the cancelled ones of a cancelled run. Done images stay as they are."""
    from db.runs import RetryFilter
    from db.session import read
    from db.steering import pause_of
    from producer.cli.found import find_run
    from producer.cli.progress import Meter
    from producer.cli.ring import ring
    from producer.cli.run_folder import go_on
    from producer.runs.operate import retry
    from producer.stopping import STOPPING

    found = find_run(run, *STOPPING)
    with Meter(f"retrying {found.name}", "images") as meter:
        moved = retry(found.sessions, found.run_id, RetryFilter(error_class, chunk), meter.tell)
    found.refuse(*STOPPING)  # another command may have cancelled or deleted the run meanwhile
    queued = ring(found) if moved else 0
    if json:
        base.print_json({"run": found.name, "images": moved, "queued": queued})
        return 0
    click.echo(f"run {found.name}: {counted(moved, 'image')} to try again")
    if not moved:
        say("nothing had failed" + (" that way" if error_class or chunk else ""))
    elif found.folder is not None:
        say(f"Next: {go_on(found.folder)}")
    elif (why := read(found.sessions, pause_of, found.run_id)) is not None:
        say(f"the run is paused {why}")
        say(f"Next: sam3-resume {found.argument}")
    else:
        say(f"Next: sam3-status {found.argument} --watch")
    return 0
