"""Finds the run that a command's argument RUN names, and says how the next command names it. Changes nothing."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.refusals import DatabaseUnusable
from db.runs import run_id_of, state_of
from db.session import Sessions, parse_url, read, sqlite_url
from db.views import run_views
from db.views.run_views import RunView
from producer import stopping
from producer.cli.run_folder import is_run_folder, read_run_file
from workers.cli import base, opening
from workers.errors import NoSuchRun, Unreachable, UsageError
from workers.settings import Settings


@dataclass(frozen=True)
class Found:
    """The run that a command's argument RUN names."""

    sessions: Sessions
    run_id: int
    name: str
    settings: Settings
    folder: Path | None  # the sam3-run folder that RUN names; such a run has no broker while no sam3-run works on it

    def refuse(self, *states: str) -> None:
        """Raise an error if the run is now in one of `states`, which are those of cancelling and deleting."""
        stopping.refuse(self.argument, read(self.sessions, state_of, self.run_id), *states)

    @property
    def spelled(self) -> str:
        """RUN for the next command in this working folder."""
        if self.folder is None:
            return base.spelled_run(self.name)
        plain = str(self.folder)
        spelled_out = plain.startswith("-") or (_is_plain(plain) and _may_be_in_database(plain, self.settings))
        return f"./{plain}" if spelled_out else plain

    @property
    def argument(self) -> str:
        """RUN for the next command, quoted for the shell."""
        return shlex.quote(self.spelled)

    @property
    def shown(self) -> str:
        """The run for messages, with its folder if it has one."""
        return f"run {self.name}" + ("" if self.folder is None else f" of the folder {self.folder}")


def find_run(run: str, *refused: str, **flags: Any) -> Found:
    """Find the run named `run`, or the run of the sam3-run folder `run`. Raises `NoSuchRun`, with names of runs.

    If a plain name is both a folder and a run of the database, raises `UsageError`: then `./name` means the folder and
    `run:name` the run of the database. `refused` are states, of cancelling and deleting, in which the command cannot
    use the run.
    """
    settings = base.settings(**flags)
    name, folder = run.removeprefix(base.DATABASE_RUN), run_folder(run, settings)
    if folder is not None:
        there = read_run_file(folder)
        name = there.run
        settings = base.settings(state_dir=there.state_dir, database_url=sqlite_url(there.database), **flags)
    run_file = None if folder is None else folder / base.RUN_FILE
    sessions = opening.open_database(settings.database_url, run_file=run_file)
    run_id = read(sessions, run_id_of, name)
    names = read(sessions, run_views.run_names) if run_id is None else []
    if run_id is None:
        there_are = f"there are: {', '.join(names[-10:])}" if names else "the database has no runs yet"
        hint = f"; the folder {run} holds no {base.RUN_FILE}" if folder is None and Path(run).is_dir() else ""
        raise NoSuchRun(f"no run called {name}; {there_are}{hint}")
    found = Found(sessions, run_id, name, settings, folder)
    found.refuse(*refused)
    return found


def view_of(found: Found) -> RunView:
    """The run's settings. Raises `RunGone`."""
    view = read(found.sessions, run_views.run_view, found.run_id)
    if view is None:
        raise run_views.RunGone
    return view


def run_folder(run: str, settings: Settings) -> Path | None:
    """The sam3-run folder that `run` means; None if it means a run of the database."""
    folder = Path(run)
    if run.startswith(base.DATABASE_RUN) or not (folder / base.RUN_FILE).is_file():
        return None
    if not _is_plain(run):
        return folder
    if not is_run_folder(folder):  # its run.yaml is not ours, so the name means a run of the database, if there is one
        return None if _in_database(run, settings) else folder
    try:
        is_both = _in_database(run, settings) and not is_database_of(folder, settings)
    except (Unreachable, DatabaseUnusable) as error:
        raise type(error)(
            f"whether {run} is a run of the database too cannot be seen ({error}); ./{run} is the folder's"
        ) from None
    if is_both:
        raise UsageError(
            f"{run} means the run of the folder here and another one in the database: "
            f"write ./{run} for the folder's, {base.DATABASE_RUN}{run} for the database's"
        )
    return folder


def _is_plain(run: str) -> bool:
    """Whether the text could be the name of a run, and is not clearly a path."""
    return "/" not in run and run not in (".", "..")


def _in_database(name: str, settings: Settings) -> bool:
    """Whether the database has a run of this name. An SQLite file that does not exist is not made."""
    url = parse_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return False
    sessions = opening.open_database(settings.database_url)
    try:
        return read(sessions, run_id_of, name) is not None
    finally:
        sessions.kw["bind"].dispose()


def is_database_of(folder: Path, settings: Settings) -> bool:
    """Whether the database of the settings is the one in the folder, so that both have the same run."""
    of_folder, set_one = read_run_file(folder).database, Path(parse_url(settings.database_url).database or "")
    return of_folder.is_file() and set_one.is_file() and of_folder.samefile(set_one)


def _may_be_in_database(name: str, of_folder: Settings) -> bool:
    """Whether a plain name may be ambiguous, because the database of the settings has a run called like the folder."""
    settings = base.settings()
    try:
        return settings.database_url != of_folder.database_url and _in_database(name, settings)
    except (Unreachable, DatabaseUnusable):
        return True
