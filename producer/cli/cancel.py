"""`sam3-cancel`: stops a run and keeps its results."""

import click

from producer.cli.completion import complete_run
from producer.cli.flags.options import json_flag
from workers.cli import base
from workers.cli.base import counted, say


@base.command("sam3-cancel")
@click.argument("run", shell_complete=complete_run)
@json_flag
def main(run: str, json: bool) -> int:
    """Stop a run. Batches in hand are dropped, results stay; sam3-retry takes the cancelled images up again.

    An interrupted cancel continues by itself while workers run, or at once with the same command.
    """
    from db.runs import pending_images
    from db.session import read
    from db.states import RunState
    from producer.cli.found import find_run
    from producer.cli.progress import Meter
    from producer.runs.operate import cancel

    found = find_run(run, RunState.DELETING)
    pending = read(found.sessions, pending_images, found.run_id)
    with Meter(f"cancelling {found.name}", "images") as meter:
        cancelled = cancel(found.sessions, found.run_id, meter.tell)
    if json:
        base.print_json({"run": found.name, "cancelled": cancelled})
        return 0
    click.echo(f"run {found.name}: {counted(cancelled, 'image')} cancelled")
    if cancelled:
        say(f"Next: sam3-retry {found.argument} takes them up again; sam3-delete {found.argument} forgets the run")
    if pending > cancelled:  # the others were to be computed again by a redo, or were committed meanwhile
        say(f"{counted(pending - cancelled, 'image')} that waited or were in hand keep their results")
    elif not cancelled:
        say("nothing was pending")
    return 0
