"""The same name with other settings: a run without results takes them over, one with results refuses them."""

from dataclasses import asdict, dataclass, field

from db import corrections
from db.corrections import ClaimedMeanwhile, HasResults
from db.intake import KnownRun
from db.models import RunState
from db.runs import RetryFilter
from db.session import Sessions, reading, write
from db.values import Frozen, Source
from producer.results.targets import free_file
from producer.runs.operate import delete, retry
from workers.errors import UsageError

_ROW_SETTINGS = ("image_column", "prompt_column", "image_root", "follow_symlinks")  # another one reads other rows


@dataclass(frozen=True)
class Wanted:
    """What a command asks of the run of a name."""

    name: str
    source: Source
    frozen: Frozen
    prompts: tuple[str, ...]
    advice: str  # what else to do if the name stands for something else
    argument: str | None  # RUN as the next command needs it; None if none can name it
    copy: str  # name without its ending for an export with another threshold, with {} for that


@dataclass(frozen=True)
class Differences:
    """Settings that a run has and that are asked for, by name."""

    there: dict[str, object] = field(default_factory=dict)
    here: dict[str, object] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.there)

    def told(self, form: str) -> str:
        """Each in the form `{name} {there} {here}`, joined by semicolons."""
        return "; ".join(
            form.format(name=key.replace("_", "-"), there=_shown(self.there[key]), here=_shown(self.here[key]))
            for key in self.there
        )

    @property
    def of_rows(self) -> bool:
        """Whether rows recorded under the one are not those of the other."""
        # Without prompts for every image, rows without their own are rejected.
        prompts = bool(self.there.get("prompt", True)) != bool(self.here.get("prompt", True))
        return prompts or any(key in self.there for key in _ROW_SETTINGS)


def differences(known: KnownRun, wanted: Wanted) -> Differences:
    there = asdict(known.frozen) | {"prompt": known.prompts} | _identity(known.source)
    here = asdict(wanted.frozen) | {"prompt": wanted.prompts} | _identity(wanted.source)
    if set(known.prompts) == set(wanted.prompts):  # in another order they find the same
        there["prompt"] = here["prompt"]
    other = [key for key in there if there[key] != here[key]]
    return Differences({key: there[key] for key in other}, {key: here[key] for key in other})


def refuse_if_not_to_be_corrected(sessions: Sessions, known: KnownRun, wanted: Wanted, other: Differences) -> None:
    """Results of one name must all mean the same, and another source is no correction. Raises `UsageError`."""
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
    return refused(wanted, other, "has results", free)


def refused(wanted: Wanted, other: Differences, has: str = "exists", free: str = "") -> UsageError:
    """The refusal of settings that the run has not, with what to do instead."""
    told = other.told("{name} {there} there, {here} here")
    delete = f"; or sam3-delete {wanted.argument} first" if wanted.argument else ""
    return UsageError(f"run {wanted.name} {has} with other settings: {told}{free}. {wanted.advice}{delete}")


def correct(sessions: Sessions, known: KnownRun, wanted: Wanted, other: Differences) -> None:
    """Give the run the settings that are asked for; what failed or was cancelled under the old ones is tried again.

    If `other.of_rows`, the run is deleted instead, and is to be recorded anew. Raises `UsageError` if it has results.
    """
    # Of a run that is deleted too: what is claimed is taken back, so that no result is committed and lost. Its prompts
    # stay, so that the same command finds the difference again if this one is killed before the end.
    prompts = known.prompts if other.of_rows else wanted.prompts
    while True:
        try:
            write(sessions, corrections.correct, known.id, known.uid, wanted.frozen, prompts)
            break
        except ClaimedMeanwhile:
            continue
        except HasResults:
            raise _with_results(known, wanted, other) from None
    if other.of_rows:
        delete(sessions, known.id)
    elif known.state != RunState.LOADING:  # the load that is to go on brings all rows
        retry(sessions, known.id, RetryFilter())


def _identity(source: Source) -> dict[str, object]:
    return {
        "source": source.path,
        "image_column": source.image_column,
        "prompt_column": source.prompt_column or "none",
        "image_root": source.root if source.confined else "none",
        "follow_symlinks": source.follow_symlinks,
    }


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else f"{value}"
