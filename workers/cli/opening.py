"""Opens the database of a command, and says where it is named if it cannot be used. Quick to import; knows no tables.

As in `workers.cli.base`, what takes time to import is imported inside the functions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workers.cli import base
from workers.errors import Unreachable

if TYPE_CHECKING:
    from db.patience import Patience
    from db.session import Sessions
    from workers.settings import Settings


def open_database(
    url: str,
    connections: int = 2,
    *,
    create: bool = False,
    run_file: Path | None = None,
    named: str | None = None,
    patience: "Patience | None" = None,
) -> "Sessions":
    """Connect to a database, and upgrade its schema (SQLite) or check it. Raises `Unreachable` or `DatabaseUnusable`.

    `connections` is the most that this process holds open on PostgreSQL. An SQLite database that does not exist is made
    only with `create`, so that a mistyped name makes no empty database. `run_file` is the run.yaml of the sam3-run
    folder that the database belongs to, or None if the settings name the database; `named` is what else named it, for
    the advice. `patience` is how sessions wait for a database that goes away later: by default for half a minute.
    """
    from db.migrate import ensure_schema
    from db.session import connect

    with told_database_faults(url, create=create, run_file=run_file, named=named):
        sessions = connect(url, connections=connections, create=create, patience=patience)
        ensure_schema(sessions, create=create)
    return sessions


def look_into(url: str, run_file: Path | None = None) -> "Sessions | None":
    """Connect to a database as `open_database` does, but change nothing; None if there is none yet.

    Raises as `open_database` does, and `Unreachable` for a database whose schema that would upgrade first.
    """
    from db.migrate import needs_upgrade
    from db.refusals import NoDatabase
    from db.session import connect

    with told_database_faults(url, create=True, run_file=run_file):
        try:
            sessions = connect(url, create=False)
            older = needs_upgrade(sessions, create=False)
        except NoDatabase:
            return None
    if older:
        raise Unreachable("the database has older tables, which the command itself brings up to date")
    return sessions


def identified(settings: "Settings", sessions: "Sessions") -> "Settings":
    """The settings with the identity of the database, which names the queue of its doorbells."""
    from db.doorbells import identity
    from db.session import read

    return settings.model_copy(update={"identity": read(sessions, identity)})


@contextmanager
def told_database_faults(
    url: str, *, create: bool, run_file: Path | None = None, named: str | None = None
) -> Iterator[None]:
    """Turn errors of a database that cannot be opened into `Unreachable`, which says where the database is named."""
    from sqlalchemy.exc import DatabaseError

    from db.refusals import DatabaseUnusable, ForeignDatabase, NoDatabase, advice, is_busy
    from db.session import describe_failure

    try:
        yield
    except NoDatabase as error:
        again = "the same sam3-run command again makes what is missing"
        begins = not create and not isinstance(error, ForeignDatabase)
        cure = f"it belongs to {run_file}: {again}" if run_file else _database_advice(named, begins=begins)
        raise Unreachable(f"{describe_failure(error, url)}; {cure}") from None
    except DatabaseUnusable as error:
        raise DatabaseUnusable(f"{error}; it belongs to {run_file}" if run_file else str(error)) from None
    except DatabaseError as error:  # it does not answer, it refuses us, or the file is no database
        said = describe_failure(error, url)
        if not is_busy(error) and not advice(error):
            said += f"; it belongs to {run_file}" if run_file else f"; {_database_advice(named, begins=False)}"
        raise Unreachable(said) from None


def _database_advice(named: str | None, *, begins: bool) -> str:
    """Say where a database that cannot be used is named, and what to do. Without `named`, a setting named it.

    `begins` says that a sam3-enqueue would make it.
    """
    begin = ", or begin with sam3-enqueue --csv FILE --prompt TEXT" if begins else ""
    if named := named or base.setting_origin("database_url"):
        return f"{named} names it: correct that{begin}"
    folder = base.setting_origin("state_dir")
    where = f"it is in the folder that {folder} names" if folder else "that is the default place"
    return f"{where}: set SAM3_DATABASE_URL to the one you mean{begin}"
