"""`sam3-resume`: lets a paused run go on."""

import click

from producer.cli.completion import complete_run
from producer.cli.flags.options import json_flag
from workers.cli import base
from workers.cli.base import say


@base.command("sam3-resume")
@click.argument("run", shell_complete=complete_run)
@json_flag
def main(run: str, json: bool) -> int:
    """Let a paused run go on. Nothing is computed twice."""
    from db.session import write
    from db.steering import resume
    from producer.cli.found import find_run
    from producer.cli.ring import ring
    from producer.cli.run_folder import go_on
    from producer.stopping import STOPPING

    found = find_run(run, *STOPPING)
    why = write(found.sessions, resume, found.run_id)
    queued = ring(found) if why is not None else 0
    if json:
        base.print_json({"run": found.name, "was_paused": why, "queued": queued})
        return 0
    click.echo(f"run {found.name}: " + ("goes on" if why is not None else "was not paused"))
    say(f"Next: {go_on(found.folder)}" if found.folder else f"Next: sam3-status {found.argument} --watch")
    return 0
