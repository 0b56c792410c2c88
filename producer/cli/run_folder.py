"""The output folder of a sam3-run: whose it is, what `run.yaml` in it says, and what must not stand in it."""

import fcntl
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from db import private
from db.session import Sessions, read, sqlite_url
from db.views import status
from db.views.inputs import run_inputs
from producer.layout import DATABASE_FILE, RESULTS, STATE_FOLDER, is_run_file
from producer.results.targets import Targets
from producer.slugs import numbered
from workers.cli.base import RUN_FILE, open_database, spelled_run
from workers.cli.config_file import FIRST_SOURCE
from workers.cli.worker import absolute_sqlite
from workers.errors import UsageError
from workers.settings import load_settings

COMMAND = "sam3-run"
RUN_LOCK = "run.lock"  # in the state folder: held by the sam3-run that works there


@dataclass(frozen=True)
class RunFile:
    """Whose folder it is."""

    run: str
    source: Path | None
    state_dir: Path  # a folder that was moved took its state along
    first_source: str | None = None  # where that was when the run got its name, if it was moved

    def moved_to(self, source: Path) -> str | None:
        """What `first_source` is once the run reads this source."""
        if self.source is None or self.source == source or self.source.exists():
            return self.first_source
        return self.first_source or str(self.source)

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
    return RunFile(
        str(facts["run"]), Path(str(source)) if source else None, Path(str(state_dir)), facts.get(FIRST_SOURCE)
    )


def refuse_other_run(folder: Path, run: str, source: Path, state_dir: Path | None) -> None:
    """Raise `UsageError` if `folder` is that of another run: their masks would mix.

    A source that was moved is not another one; whether its run can go on is not asked here. `state_dir` is the folder
    of a database that was named, and may have the runs of other output folders.
    """
    if not is_run_folder(folder):
        return
    there = read_run_file(folder)
    if there.source is None:  # sam3-run writes one: somebody else made this file, and it will be kept
        return
    other = there.source.exists() and not os.path.samefile(there.source, source)
    if there.run != run or other:
        raise _belongs_to(folder, f"run {there.run} of {there.source}", _free_run(state_dir, run, source))


def run_of_folder(folder: Path, given: str | None, source: Path) -> str | None:
    """The run of `folder` if no name is given and its source was moved, or is gone and may be this one: then what the
    source is called by now does not count."""
    if given is not None or not is_run_folder(folder):
        return None
    there = read_run_file(folder)
    return there.run if there.moved_to(source) is not None else None


def _belongs_to(folder: Path, whose: str, run: str | None = None) -> UsageError:
    return UsageError(f"-o {folder} belongs to {whose}; a folder holds one run. Use another: {elsewhere(folder, run)}")


def _free_run(state_dir: Path | None, run: str, source: Path) -> str | None:
    """The name to give a run of `source` if `run` stands for another one in the database of this folder."""
    if state_dir is None or not (state_dir / DATABASE_FILE).is_file():
        return None
    sessions = open_database(sqlite_url(state_dir / DATABASE_FILE))
    others = [there.name for there in read(sessions, run_inputs) if there.source != str(source)]
    return numbered(run, others.__contains__) if run in others else None


@dataclass(frozen=True)
class Hints:
    """What to say where the name of a run stands for something else."""

    advice: str
    argument: str | None  # RUN as the next command needs it; None if none can name it
    copy: str  # name without its ending for an export with another threshold


def hints(sessions: Sessions, output: Path, run: str, database: str, *, shared: bool) -> Hints:
    """`shared`: the database, of this URL, was named and may have the runs of other output folders."""
    copy = f"{output}/results-{{}}"
    if not shared:
        same = f"Use another output folder: {elsewhere(output)}; or the same settings"
        return Hints(same, shlex.quote(str(output)), copy)
    free = numbered(run, read(sessions, status.run_names).__contains__)
    advice = f"Give this one another name and folder: {elsewhere(output, free)}; or the same settings"
    if is_run_folder(output):
        return Hints(advice, shlex.quote(str(output)), copy)
    is_set = absolute_sqlite(load_settings().database_url) == database
    return Hints(advice, spelled_run(run) if is_set else None, f"{run}-{{}}")


def write_run_file(targets: Targets, folder: Path, facts: dict[str, Any]) -> None:
    """Replace the folder's `run.yaml`, unless it says the same already: its comments are somebody's work.

    Raises `UsageError` if it is not ours, or that of another run.
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
    """Whether some sam3-run holds this state now. Makes nothing."""
    try:
        with (state_dir / RUN_LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file: nobody has begun
        return False
    return False


def go_on(folder: Path) -> str:
    """The command that goes on with the folder's run, wherever the folder was moved to; quoted for the shell."""
    return shlex.join([COMMAND, "--config", str(folder / RUN_FILE), "-o", str(folder)])


def _facts(read: Callable[[], bytes]) -> dict[str, Any] | None:
    try:
        facts = yaml.safe_load(read())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return facts if isinstance(facts, dict) and "run" in facts else None


def elsewhere(output: Path, run: str | None = None) -> str:
    """The command that was typed, with an output folder that is not there yet, and `run` as the run's name."""
    stem = output if output.name not in ("", "..") else output / "out"
    free = numbered(str(stem), os.path.lexists)
    given = [*sys.argv[1:], *(() if run is None else ("--run", run))]  # of two names the last one counts
    for index, word in enumerate(given):
        if word in ("-o", "--output") and index + 1 < len(given):
            return shlex.join([COMMAND, *given[: index + 1], free, *given[index + 2 :]])
        if word.startswith("--output="):
            return shlex.join([COMMAND, *given[:index], f"--output={free}", *given[index + 1 :]])
    return shlex.join([COMMAND, *given, "-o", free])


def check_targets(targets: Targets) -> None:
    """Refuse, before any work is done, files in the way of ours and links inside the output folder."""
    for name in ("results", "preview"):
        targets.check(targets.named / RESULTS[name])
    targets.check(targets.named / RUN_FILE, lambda file: is_run_file(file.read()))
    targets.check_folder(targets.named / RESULTS["masks"])
    targets.refuse_link(targets.named / STATE_FOLDER)
    for folder, folders, files in os.walk(targets.named / STATE_FOLDER):
        for name in (*folders, *files):
            targets.refuse_link(Path(folder, name))


def refuse_other_runs_state(sessions: Sessions, output: Path, name: str) -> None:
    """Of a folder whose run.yaml is not written yet, or gone, the database says whose it is."""
    others = [] if is_run_folder(output) else [run for run in read(sessions, status.run_names) if run != name]
    if others:
        raise _belongs_to(output, f"run {others[0]}")
