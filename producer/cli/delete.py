"""`sam3-delete`: deletes a run from the database and returns its space to the disk."""

import sys

import click

from producer.cli.completion import complete_run
from producer.cli.flags.options import json_flag
from workers.cli import base
from workers.cli.base import counted, say
from workers.errors import UsageError


@base.command("sam3-delete")
@click.argument("run", shell_complete=complete_run)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_flag
def main(run: str, yes: bool, json: bool) -> int:
    """Delete a run with all its results from the database. Exported files stay.

    An interrupted delete continues by itself while workers run, or at once with the same command.
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
    except (sqlite3.OperationalError, OperationalError) as error:  # the run is deleted nevertheless
        say(f"its space is given back by a later sam3-delete: {getattr(error, 'orig', error)}")
    if json:
        base.print_json({"run": found.name, "deleted": deleted})
    else:
        click.echo(f"{found.shown}: {counted(deleted, 'image')} deleted")
    return 0
