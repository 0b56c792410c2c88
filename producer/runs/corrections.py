"""Decides what to do if a command names a run but gives other settings than the run has.

A run without results takes the new settings over, a run with results refuses them. Knows no input.
"""

import shlex
from dataclasses import asdict, dataclass, field

from db import corrections
from db.classes import classes_of_text
from db.corrections import HasResults
from db.intake import KnownRun
from db.runs import RetryFilter
from db.session import Sessions, reading, write
from db.states import RunState
from db.values import Frozen, Source
from producer.results.files.targets import free_file
from producer.runs.operate import delete, retry, until_unclaimed
from producer.runs.prompts import agrees
from workers.errors import UsageError

# They decide which rows are read.
_ROW_SETTINGS = ("image_column", "prompt_column", "box_column", "image_root", "follow_symlinks")


@dataclass(frozen=True)
class Wanted:
    """The settings that a command asks for, and what to advise if the run has others."""

    name: str
    source: Source
    frozen: Frozen
    prompts: tuple[str, ...]
    advice: str  # what the user can do if the run has other settings
    argument: str | None  # RUN as the next command needs it; None if no command can name it
    copy: str  # name of a file, without its suffix, for an export with another threshold; {} stands for the threshold


@dataclass(frozen=True)
class Differences:
    """The settings that differ, by name."""

    there: dict[str, object] = field(default_factory=dict)  # values of the run
    here: dict[str, object] = field(default_factory=dict)  # values that the command asks for

    def __bool__(self) -> bool:
        return bool(self.there)

    def told(self, form: str) -> str:
        """All differences in words, joined by semicolons. `form` may hold {name}, {there} and {here}."""
        return "; ".join(
            form.format(name=key.replace("_", "-"), there=_shown(self.there[key]), here=_shown(self.here[key]))
            for key in self.there
        )

    @property
    def of_rows(self) -> bool:
        """Whether the differing settings change which rows are recorded."""
        # If a command has no prompt for all images, rows without prompts of their own are rejected.
        prompts = bool(self.there.get("prompt", True)) != bool(self.here.get("prompt", True))
        return prompts or any(key in self.there for key in _ROW_SETTINGS)


def differences(known: KnownRun, wanted: Wanted) -> Differences:
    """Compare the settings of a run with those that a command asks for."""
    there = _settings(known.frozen) | {"prompt": known.prompts} | _identity(known.source)
    here = _settings(wanted.frozen) | {"prompt": wanted.prompts} | _identity(wanted.source)
    if agrees(known, wanted.prompts, known.prompts):  # the order of prompts does not change the results
        there["prompt"] = here["prompt"]
    other = [key for key in there if there[key] != here[key]]
    return Differences({key: there[key] for key in other}, {key: here[key] for key in other})


def refuse_if_not_to_be_corrected(sessions: Sessions, known: KnownRun, wanted: Wanted, other: Differences) -> None:
    """Raise `UsageError` if the run has results, or if the command names another source."""
    if "source" in other.there:
        raise refused(wanted, other)
    with reading(sessions) as session:
        computed = corrections.has_results(session, known.id)
    if computed:
        raise _with_results(known, wanted, other)


def _with_results(known: KnownRun, wanted: Wanted, other: Differences) -> UsageError:
    free = ""
    threshold = wanted.frozen.threshold
    if wanted.argument and list(other.there) == ["threshold"] and threshold >= known.frozen.score_floor:
        copy = free_file(wanted.copy.format(f"{threshold:g}"), ".csv")
        export = f"sam3-export {wanted.argument} --format csv --threshold {threshold:g} -o {copy}"
        free = f". No GPU is needed for that: {export}"
    if list(other.there) == ["prompt"] and known.prompts and wanted.prompts:
        free = f". To change its prompts: the same command with {_flags(known.prompts, wanted.prompts)}"
    return refused(wanted, other, "has results", free)


def _flags(there: tuple[str, ...], here: tuple[str, ...]) -> str:
    """The flags that make the prompts of a run those that a command asks for."""
    flags = [("--add-prompt", prompt) for prompt in here if prompt not in there]
    flags += [("--drop-prompt", prompt) for prompt in there if prompt not in here]
    return shlex.join(word for flag in flags for word in flag)


def refused(wanted: Wanted, other: Differences, has: str = "exists", free: str = "") -> UsageError:
    """The error for settings that differ from those of the run, with what to do instead.

    `has` says why the run keeps its settings, `free` what can be done without a new run.
    """
    told = other.told("{name} {there} there, {here} here")
    delete = f"; or sam3-delete {wanted.argument} first" if wanted.argument else ""
    return UsageError(f"run {wanted.name} {has} with other settings: {told}{free}. {wanted.advice}{delete}")


def correct(sessions: Sessions, known: KnownRun, wanted: Wanted, other: Differences) -> None:
    """Give the run the settings that are asked for, and retry its failed and cancelled images.

    If `other.of_rows`, the run is deleted instead, and the caller records it anew. Raises `UsageError` if it has
    results.
    """
    # A run that will be deleted is corrected first, so that its claimed chunks are taken back and no result is
    # committed and then lost. Its prompts stay as they are: if this command is killed, the same command finds the
    # difference again.
    prompts = known.prompts if other.of_rows else wanted.prompts
    settings = known.id, known.uid, wanted.frozen, prompts
    try:
        until_unclaimed(lambda: write(sessions, corrections.correct, *settings))
    except HasResults:
        raise _with_results(known, wanted, other) from None
    if other.of_rows:
        delete(sessions, known.id)
    elif known.state != RunState.LOADING:  # a run that is loading cannot be retried; its load goes on
        retry(sessions, known.id, RetryFilter())


def _settings(frozen: Frozen) -> dict[str, object]:
    classes = tuple(
        f"{one.id} {one.name}" + (f" {list(one.colour)}" if one.colour else "")
        for one in classes_of_text(frozen.classes)
    )
    return asdict(frozen) | {"classes": classes}


def _identity(source: Source) -> dict[str, object]:
    return {
        "source": source.path,
        "image_column": source.image_column,
        "prompt_column": source.prompt_column or "none",
        "box_column": source.box_column or "none",
        "image_root": source.root if source.confined else "none",
        "follow_symlinks": source.follow_symlinks,
    }


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else f"{value}"
