"""`sam3-db`: the database's schema."""

import click
from sqlalchemy.exc import OperationalError

from db.migrate import newest_revision, upgrade
from db.session import connect, describe_failure
from workers import edge
from workers.edge import say
from workers.errors import Unreachable


@edge.command("sam3-db")
@click.argument("action", type=click.Choice(["upgrade"]))
def main(action: str) -> int:
    """Bring the tables of SAM3_DATABASE_URL up to this release. SQLite does that by itself."""
    url = edge.settings().database_url
    try:
        upgrade(connect(url))
    except OperationalError as error:
        raise Unreachable(describe_failure(error, url)) from None
    say(f"the database has revision {newest_revision()}")
    return 0
