"""Flags that several commands share, the same everywhere, and how RUN names a run; does no work itself."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from db import views
from db.intake import Frozen
from db.runs import run_id_of
from db.session import Sessions, reading, sqlite_url
from producer.cells import one_line, prompt_fault
from producer.layout import RUN_FILE, STATE_FOLDER
from workers import edge
from workers.errors import NoSuchRun, UsageError
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

    @property
    def argument(self) -> str:
        """RUN as the next command needs it."""
        return shlex.quote(self.name if self.folder is None else str(self.folder))


def json_flag(function: Function) -> Function:
    return click.option("--json", is_flag=True, help="Print one JSON object.")(function)


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
        click.option("--chunk-size", default="auto", metavar="auto|N", show_default=True, help="Images of one task."),
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


def read_run_file(path: Path) -> tuple[str, Path]:
    """The run's name and state folder, as sam3-run wrote them; a folder that was moved took its state along."""
    try:
        facts = yaml.safe_load(path.read_text())
        return str(facts["run"]), Path(facts.get("state_dir") or path.parent.absolute() / STATE_FOLDER)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: not as sam3-run wrote it; run the same sam3-run command again") from None


def find_run(run: str, **flags: Any) -> Found:
    """The run called `run`, or the one in a sam3-run folder. Raises `NoSuchRun`, naming runs that there are."""
    folder = Path(run) if (Path(run) / RUN_FILE).is_file() else None
    settings = edge.settings(**flags)
    if folder is not None:
        run, state_dir = read_run_file(folder / RUN_FILE)
        settings = edge.settings(state_dir=state_dir, database_url=sqlite_url(state_dir / "sam3.db"), **flags)
    run_file = None if folder is None else folder / RUN_FILE
    sessions = edge.open_database(settings.database_url, run_file=run_file)
    with reading(sessions) as session:
        run_id = run_id_of(session, run)
        names = views.run_names(session) if run_id is None else []
    if run_id is None:
        there = f"there are: {', '.join(names[-10:])}" if names else "the database has no runs yet"
        hint = f"; the folder {run} holds no {RUN_FILE}" if folder is None and Path(run).is_dir() else ""
        raise NoSuchRun(f"no run called {run}; {there}{hint}")
    return Found(sessions, run_id, run, settings, folder)
