"""`sam3-db`: upgrades the schema of the database. Knows no tables."""

import click

from workers.cli import base, opening
from workers.cli.base import say


@base.command("sam3-db")
@click.argument("action", type=click.Choice(["upgrade"]))
def main(action: str) -> int:
    """Bring the tables of SAM3_DATABASE_URL up to this release. SQLite does that by itself."""
    from db.migrate import newest_revision, upgrade
    from db.session import connect, shown

    url = base.settings().database_url
    with opening.told_database_faults(url, create=True):
        upgrade(connect(url))
    say(f"the database {shown(url)} has revision {newest_revision()}")
    return 0
