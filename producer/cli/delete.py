"""`sam3-delete`: forget a run and give its space back."""

import sys

import click

from producer.cli.completion import complete_run
from producer.cli.options import json_flag
from workers.cli import base
from workers.cli.base import counted, say
from workers.errors import UsageError


@base.command("sam3-delete")
@click.argument("run", shell_complete=complete_run)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_flag
def main(run: str, yes: bool, json: bool) -> int:
    """Delete a run with all its results from the database. Exported files stay.

    One that was interrupted goes on by itself while workers run, and with the same command at once.
    """
    import sqlite3

    from sqlalchemy.exc import OperationalError

    from db.session import compact
    from producer.cli.found import find_run
    from producer.cli.progress import Meter
    from producer.runs.operate import delete

    found = find_run(run)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"sam3-delete {found.argument}: add --yes to delete without being asked")
        click.confirm(f"Delete {found.shown} and all its results?", abort=True, err=True)
    with Meter(f"deleting {found.name}", "images") as meter:
        deleted = delete(found.sessions, found.run_id, meter.tell)
    try:
        compact(found.sessions)
    except (sqlite3.OperationalError, OperationalError) as error:  # the run is gone all the same
        say(f"its space is given back by a later sam3-delete: {getattr(error, 'orig', error)}")
    if json:
        base.print_json({"run": found.name, "deleted": deleted})
    else:
        click.echo(f"{found.shown}: {counted(deleted, 'image')} deleted")
    return 0
