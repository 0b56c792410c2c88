"""The output folder of a sam3-run: which run it belongs to, its `run.yaml`, and which files must not be in it.

Starts no work.
"""

import fcntl
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from db import private
from db.session import Sessions, read, sqlite_url
from db.views import run_views
from db.views.inputs import run_inputs
from producer.layout import DATABASE_FILE, RESULTS, STATE_FOLDER, is_run_file
from producer.results.files.targets import Targets
from producer.results.formats import file_of, format_named, require_libraries
from producer.results.origin_file import check_origin
from producer.slugs import numbered
from producer.sources import place
from workers.cli.base import RUN_FILE, spelled_run
from workers.cli.config_file import FIRST_SOURCE
from workers.cli.opening import open_database
from workers.cli.worker import absolute_sqlite
from workers.errors import UsageError
from workers.settings import load_settings

COMMAND = "sam3-run"
RUN_LOCK = "run.lock"  # a file in the state folder, which the sam3-run that works there has locked


@dataclass(frozen=True)
class RunFile:
    """What `run.yaml` says about the run of a folder."""

    run: str
    source: str | None  # its place
    state_dir: Path  # absolute; inside the folder, wherever that is now, unless --state-dir named another
    first_source: str | None = None  # path of the source when the run got its name, if it was moved since then

    def moved_to(self, source: str) -> str | None:
        """The value of `first_source` when the run reads this source from now on."""
        if self.source is None or self.source == source or place.is_there(self.source):
            return self.first_source
        return self.first_source or self.source

    @property
    def database(self) -> Path:
        return self.state_dir / DATABASE_FILE


def is_run_folder(folder: Path) -> bool:
    """Whether a sam3-run made this folder."""
    path = folder / RUN_FILE
    return path.is_file() and _facts(path.read_bytes) is not None


def read_run_file(folder: Path) -> RunFile:
    """What `run.yaml` in `folder` says. Raises `UsageError` if sam3-run did not write it."""
    path = folder / RUN_FILE
    facts = _facts(path.read_bytes)
    if facts is None:
        raise UsageError(f"{path}: not as sam3-run wrote it; move it away and run the same sam3-run command again")
    source, state_dir = facts.get("source"), facts.get("state_dir") or path.parent.absolute() / STATE_FOLDER
    return RunFile(str(facts["run"]), str(source) if source else None, Path(str(state_dir)), facts.get(FIRST_SOURCE))


def refuse_other_run(folder: Path, run: str, source: str, state_dir: Path | None) -> None:
    """Raise `UsageError` if `folder` belongs to another run, as the masks of both would mix.

    A source that was moved is not another source; whether its run can continue is checked later. `state_dir` is the
    folder of --state-dir, whose database may have runs of other output folders.
    """
    if not is_run_folder(folder):
        return
    there = read_run_file(folder)
    if there.source is None:  # sam3-run always writes a source, so a user made this file, and it will be kept
        return
    other = place.is_there(there.source) and not place.is_same(there.source, source)
    if there.run != run or other:
        raise _belongs_to(folder, f"run {there.run} of {there.source}", _free_run(state_dir, run, source))


def run_of_folder(folder: Path, given: str | None, source: str) -> str | None:
    """The run of `folder`, if no name is given and its source was moved or is gone. None: the name of the run is made
    from `source` as usual."""
    if given is not None or not is_run_folder(folder):
        return None
    there = read_run_file(folder)
    return there.run if there.moved_to(source) is not None else None


def _belongs_to(folder: Path, whose: str, run: str | None = None) -> UsageError:
    return UsageError(f"-o {folder} belongs to {whose}; a folder holds one run. Use another: {elsewhere(folder, run)}")


def _free_run(state_dir: Path | None, run: str, source: str) -> str | None:
    """A free name for a run of `source`, if `run` is a run of another source in the database of `state_dir`."""
    if state_dir is None or not (state_dir / DATABASE_FILE).is_file():
        return None
    sessions = open_database(sqlite_url(state_dir / DATABASE_FILE))
    others = [there.name for there in read(sessions, run_inputs) if there.source != source]
    return numbered(run, others.__contains__) if run in others else None


@dataclass(frozen=True)
class Hints:
    """What to say if the run has other settings; the fields are those of `producer.runs.corrections.Wanted`."""

    advice: str
    argument: str | None
    copy: str


def hints(sessions: Sessions, output: Path, run: str, database: str, *, shared: bool) -> Hints:
    """Make the hints for a run. `shared`: the user named the database `database` (a URL) with --state-dir, so that it
    may have runs of other output folders."""
    copy = f"{output}/results-{{}}"
    if not shared:
        same = f"Use another output folder: {elsewhere(output)}; or the same settings"
        return Hints(same, shlex.quote(str(output)), copy)
    free = numbered(run, read(sessions, run_views.run_names).__contains__)
    advice = f"Give this one another name and folder: {elsewhere(output, free)}; or the same settings"
    if is_run_folder(output):
        return Hints(advice, shlex.quote(str(output)), copy)
    is_set = absolute_sqlite(load_settings().database_url) == database
    return Hints(advice, spelled_run(run) if is_set else None, f"{run}-{{}}")


def write_run_file(targets: Targets, folder: Path, facts: dict[str, Any]) -> None:
    """Replace the folder's `run.yaml`, unless it says the same already, as a user may have added comments.

    Raises `UsageError` if it is not ours, or belongs to another run.
    """
    path = folder / RUN_FILE

    def of_the_same_run(file: BinaryIO) -> bool:
        content = file.read()
        there = _facts(lambda: content)
        return is_run_file(content) and there is not None and there["run"] == facts["run"]

    targets.check(path, of_the_same_run)
    if path.is_file() and _facts(path.read_bytes) == facts:
        return
    with targets.replacing(path, of_the_same_run) as temporary:
        temporary.write_text(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), "utf-8")
        temporary.chmod(temporary.stat().st_mode & private.file_mode())


def is_at_work(state_dir: Path) -> bool:
    """Whether a sam3-run works with this state folder now. Makes no file."""
    try:
        with (state_dir / RUN_LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file: no sam3-run has started
        return False
    return False


def go_on(folder: Path) -> str:
    """The command that continues the run of the folder, at its present place; quoted for the shell."""
    return shlex.join([COMMAND, "--config", str(folder / RUN_FILE), "-o", str(folder)])


def _facts(read: Callable[[], bytes]) -> dict[str, Any] | None:
    try:
        facts = yaml.safe_load(read())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return facts if isinstance(facts, dict) and "run" in facts else None


def elsewhere(output: Path, run: str | None = None) -> str:
    """The user's command with a new output folder and with `run` as the run's name."""
    stem = output if output.name not in ("", "..") else output / "out"
    free = numbered(str(stem), os.path.lexists)
    given = [*sys.argv[1:], *(() if run is None else ("--run", run))]  # if --run comes twice, the last one counts
    for index, word in enumerate(given):
        if word in ("-o", "--output") and index + 1 < len(given):
            return shlex.join([COMMAND, *given[: index + 1], free, *given[index + 2 :]])
        if word.startswith("--output="):
            return shlex.join([COMMAND, *given[:index], f"--output={free}", *given[index + 1 :]])
    return shlex.join([COMMAND, *given, "-o", free])


def check_targets(targets: Targets, also: Sequence[str]) -> None:
    """Raise `UsageError`, before any work is done, if a foreign file has the name of one of ours, if there are links
    inside the state folder, or if a format of `also` cannot be written here."""
    for name in ("results", "preview"):
        targets.check(targets.named / RESULTS[name])
    check_origin(targets, targets.named / RESULTS["results"])
    for name in also:
        require_libraries(name)
        place, wanted = file_of(targets.named, name), format_named(name)
        (targets.check_folder if wanted.folder else targets.check)(place)
        if wanted.origin_beside:
            check_origin(targets, place)
    targets.check(targets.named / RUN_FILE, lambda file: is_run_file(file.read()))
    targets.check_folder(targets.named / RESULTS["masks"])
    targets.refuse_link(targets.named / STATE_FOLDER)
    for folder, folders, files in os.walk(targets.named / STATE_FOLDER):
        for name in (*folders, *files):
            targets.refuse_link(Path(folder, name))


def refuse_other_runs_state(sessions: Sessions, output: Path, name: str) -> None:
    """Raise `UsageError` if the folder has no run.yaml, but its database has another run."""
    others = [] if is_run_folder(output) else [run for run in read(sessions, run_views.run_names) if run != name]
    if others:
        raise _belongs_to(output, f"run {others[0]}")
