"""`sam3-pause`: begins no more batches of a run until sam3-resume."""

import click

from producer.cli.completion import complete_run
from producer.cli.flags.options import json_flag
from workers.cli import base
from workers.cli.base import say


@base.command("sam3-pause")
@click.argument("run", shell_complete=complete_run)
@json_flag
def main(run: str, json: bool) -> int:
    """Pause a run: batches in hand are finished and committed, no other is begun, whatever is restarted meanwhile."""
    from db.session import read, write
    from db.steering import BY_HAND, pause
    from db.views.status import progress
    from producer.cli.found import find_run
    from producer.cli.run_folder import go_on
    from producer.stopping import STOPPING

    found = find_run(run, *STOPPING)
    changed = write(found.sessions, pause, found.run_id, BY_HAND)
    now = read(found.sessions, progress, found.run_id)
    if json:
        base.print_json({"run": found.name, "paused": now.paused})
        return 0
    if now.paused is None:
        click.echo(f"run {found.name}: {now.state}, so there is nothing to pause")
        return 0
    click.echo(f"run {found.name}: paused{'' if changed else f' already, {now.paused}'}")
    say(f"Next: {go_on(found.folder)}" if found.folder else f"Next: sam3-resume {found.argument}")
    return 0
