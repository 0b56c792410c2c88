"""Flags that several commands share, the same everywhere, and how RUN names a run; does no work itself."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from db import views
from db.intake import Frozen
from db.runs import run_id_of, state_of
from db.session import DatabaseUnusable, Sessions, parse_url, read, reading, sqlite_url
from producer import stopping
from producer.cells import one_line, prompt_fault
from producer.cli.run_folder import is_run_folder, read_run_file
from workers import edge
from workers.errors import NoSuchRun, Unreachable, UsageError
from workers.fleet.weights import absolute_model
from workers.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])


class Phrase(click.ParamType[str]):
    """A text that may hold blanks: several of them in one variable are joined by |, as in a prompt column."""

    name = "text"
    envvar_list_splitter = "|"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not isinstance(value, str):  # YAML reads a bare yes or 7 as something else
            self.fail(f"{value!r} is no text; put it in quotes", param, ctx)
        return value


class Share(click.FloatRange):
    """A number from 0 to 1. Click's range alone lets NaN through, which equals nothing, not even itself."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range 0<=x<=1", param, ctx)
        return float(number)


@dataclass(frozen=True)
class Found:
    """A run that a command was given."""

    sessions: Sessions
    run_id: int
    name: str
    settings: Settings
    folder: Path | None  # the sam3-run folder it was named by: such a run has no broker to ring

    def refuse(self, *states: str) -> None:
        """Refuse the run if it is now being cancelled or deleted and that is among `states`."""
        stopping.refuse(self.argument, read(self.sessions, state_of, self.run_id), *states)

    @property
    def spelled(self) -> str:
        """RUN as the next command in this folder needs it."""
        if self.folder is None:
            return edge.spelled_run(self.name)
        plain = str(self.folder)
        spelled_out = plain.startswith("-") or (_is_plain(plain) and _may_be_in_database(plain, self.settings))
        return f"./{plain}" if spelled_out else plain

    @property
    def argument(self) -> str:
        """The same, quoted for the shell."""
        return shlex.quote(self.spelled)

    @property
    def shown(self) -> str:
        """Which run this is: of the database, if no folder is named."""
        return f"run {self.name}" + ("" if self.folder is None else f" of the folder {self.folder}")


def json_flag(function: Function) -> Function:
    return click.option("--json", is_flag=True, help="Print one JSON object.")(function)


def force_flag(function: Function) -> Function:
    return click.option(
        "--force", is_flag=True, help="Replace files too that no export of ours made, even a run's input."
    )(function)


def exit_flags(function: Function) -> Function:
    function = click.option("--exit-zero", is_flag=True, help="End with 0 even if some images or rows failed.")(
        function
    )
    return click.option(
        "--max-failures",
        metavar="N|N%",
        help="End with 0 if at most so many images or rows failed.",
        callback=_read_max_failures,
    )(function)


def _read_max_failures(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    number = (text or "0").removesuffix("%")
    if not number.replace(".", "", 1).isdecimal():
        raise click.BadParameter(f"{text!r} is neither a number nor a percentage")
    return text


def exit_code(failed: int, total: int, max_failures: str | None, exit_zero: bool) -> int:
    """1 if more images failed than is put up with. Decides nothing but the code."""
    if exit_zero or not failed:
        return 0
    if max_failures is None:
        return 1
    if max_failures.endswith("%"):
        return int(failed > total * float(max_failures[:-1]) / 100)
    return int(failed > float(max_failures))


def run_flags(function: Function) -> Function:
    """What a run is made of: prompts and frozen settings."""
    flags = [
        click.option("--prompt", type=Phrase(), multiple=True, help="What to look for, such as person; repeatable."),
        click.option("--prompt-column", metavar="C", help="CSV column with each row's own prompts, joined by |."),
        click.option("--image-column", metavar="C", help="CSV column with the image paths (guessed if left out)."),
        click.option(
            "--image-root",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder that relative paths start from and no path may leave.",
        ),
        click.option("--follow-symlinks", is_flag=True, help="Let links lead out of --image-root."),
        click.option("--run", metavar="NAME", help="Name of the run (default: that of the input)."),
        click.option("--model", metavar="M", help="Hub id, folder, or tiny (bundled)."),
        click.option("--threshold", type=Share(), default=0.5, show_default=True, help="Score that counts as found."),
        click.option("--mask-threshold", type=Share(), default=0.5, show_default=True, help="Pixel probability."),
        click.option("--score-floor", type=Share(), default=0.3, show_default=True, help="Instances kept for export."),
        click.option("--mask-rule", type=click.Choice(["library", "meta"]), default="library", show_default=True),
        click.option("--orientation", type=click.Choice(["exif", "raw"]), default="exif", show_default=True),
        click.option("--stretch", is_flag=True, help="Spread samples of more than 8 bits over their own range."),
        click.option("--chunk-size", default="auto", metavar="auto|N", show_default=True, help="Images of one task."),
        click.option("--no-check", is_flag=True, help="Look at no image file: is it here, has it changed?"),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Read only the first N rows."),
    ]
    for flag in reversed(flags):
        function = flag(function)
    return function


def read_prompts(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Trimmed prompts, each once. Raises `UsageError` for an empty one or one that the model cannot take."""
    trimmed = tuple(dict.fromkeys(" ".join(prompt.split()) for prompt in prompts))
    for prompt in trimmed:
        if not prompt:
            raise UsageError("--prompt is empty; give a short noun phrase such as --prompt person")
        if fault := prompt_fault(prompt):
            shown = one_line(prompt)
            raise UsageError(f"--prompt '{shown[:40]}{'...' * (len(shown) > 40)}': {fault}")
    return trimmed


def read_chunk_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise UsageError(f"--chunk-size {text}: give auto or a number from 1 to 1000")
    return int(text)


def frozen_settings(settings: Settings, flags: dict[str, Any]) -> Frozen:
    return Frozen(
        model=absolute_model(settings.model),
        threshold=flags["threshold"],
        mask_threshold=flags["mask_threshold"],
        score_floor=min(flags["score_floor"], flags["threshold"]),
        mask_rule=flags["mask_rule"],
        orientation=flags["orientation"],
        stretch=flags["stretch"],
    )


def run_name(given: str | None, source: Path) -> str:
    """A name that is safe in task ids and file names. Raises `UsageError` for a given one that is not."""
    safe = "".join(
        char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in given or source.stem
    )
    if given is not None and safe != given:
        raise UsageError(f"--run {given!r}: use letters, digits, dots, dashes and underscores, such as {safe}")
    if not safe.strip("-.") or len(safe) > 100:
        raise UsageError("--run: give the run a name of 1 to 100 letters and digits")
    return safe


def find_run(run: str, *refused: str, **flags: Any) -> Found:
    """The run called `run`, or the one in a sam3-run folder. Raises `NoSuchRun`, naming runs that there are.

    A plain name that means a folder here and a run of the database raises `UsageError`: `./name` is the folder,
    `run:name` the database's. `refused` are the states, of cancelling and deleting, in which the command can do nothing
    with it.
    """
    settings = edge.settings(**flags)
    name, folder = run.removeprefix(edge.DATABASE_RUN), _run_folder(run, settings)
    if folder is not None:
        there = read_run_file(folder)
        name = there.run
        settings = edge.settings(state_dir=there.state_dir, database_url=sqlite_url(there.database), **flags)
    run_file = None if folder is None else folder / edge.RUN_FILE
    sessions = edge.open_database(settings.database_url, run_file=run_file)
    with reading(sessions) as session:
        run_id = run_id_of(session, name)
        names = views.run_names(session) if run_id is None else []
    if run_id is None:
        there_are = f"there are: {', '.join(names[-10:])}" if names else "the database has no runs yet"
        hint = f"; the folder {run} holds no {edge.RUN_FILE}" if folder is None and Path(run).is_dir() else ""
        raise NoSuchRun(f"no run called {name}; {there_are}{hint}")
    found = Found(sessions, run_id, name, settings, folder)
    found.refuse(*refused)
    return found


def _run_folder(run: str, settings: Settings) -> Path | None:
    """The sam3-run folder that is meant, if one is."""
    folder = Path(run)
    if run.startswith(edge.DATABASE_RUN) or not (folder / edge.RUN_FILE).is_file():
        return None
    if not _is_plain(run):
        return folder
    if not is_run_folder(folder):  # somebody else's run.yaml: the name means the database's run, if there is one
        return None if _in_database(run, settings) else folder
    try:
        is_both = _in_database(run, settings) and not _is_database_of(folder, settings)
    except (Unreachable, DatabaseUnusable) as error:
        raise type(error)(
            f"whether {run} is a run of the database too cannot be seen ({error}); ./{run} is the folder's"
        ) from None
    if is_both:
        raise UsageError(
            f"{run} means the run of the folder here and another one in the database: "
            f"write ./{run} for the folder's, {edge.DATABASE_RUN}{run} for the database's"
        )
    return folder


def _is_plain(run: str) -> bool:
    """Whether it could be the name of a run: not a path that says itself that it is one."""
    return "/" not in run and run not in (".", "..")


def _in_database(name: str, settings: Settings) -> bool:
    """Looks in no database that is not there, and so makes none."""
    url = parse_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return False
    return read(edge.open_database(settings.database_url), run_id_of, name) is not None


def _is_database_of(folder: Path, settings: Settings) -> bool:
    """Whether the name can only mean one run, as the folder's database is the one that is set."""
    of_folder, set_one = read_run_file(folder).database, Path(parse_url(settings.database_url).database or "")
    return of_folder.is_file() and set_one.is_file() and of_folder.samefile(set_one)


def _may_be_in_database(name: str, of_folder: Settings) -> bool:
    """Whether a plain name could be refused for a run that is called like the folder."""
    settings = edge.settings()
    try:
        return settings.database_url != of_folder.database_url and _in_database(name, settings)
    except (Unreachable, DatabaseUnusable):
        return True
