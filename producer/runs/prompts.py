"""Which prompts a command adds to a run that was recorded before, and which it drops. Knows no SQL, changes nothing."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from db.intake import KnownRun
from workers.errors import UsageError


@dataclass(frozen=True)
class PromptChange:
    """Prompts, as `db.classes.Wording` types them, that the images of a run get, or have no longer."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.drop)

    def applied(self, prompts: Iterable[str]) -> tuple[str, ...]:
        """These prompts after the change."""
        return tuple(prompt for prompt in dict.fromkeys((*prompts, *self.add)) if prompt not in self.drop)

    def agreed(self, known: KnownRun, given: tuple[str, ...]) -> tuple[str, ...]:
        """The prompts of the run, if those that are `given` are what it has before or after the change, or had before
        an earlier one; else these."""
        same = not given or agrees(known, self.applied(given), self.applied(known.prompts))
        return known.prompts if same else given

    def check(self, run: str, argument: str, known: tuple[str, ...], dropped: Collection[str]) -> None:
        """Raise `UsageError` if the run, which has the prompts `known`, cannot change so.

        `dropped` are prompts that it had before, and `argument` is RUN as another command needs it.
        """
        if not known:
            raise UsageError(
                f"run {run} has only the prompts of its rows: change them in the column of the input, not by "
                f"{'--add-prompt' if self.add else '--drop-prompt'}"
            )
        for prompt in self.drop:
            if prompt not in known and prompt not in dropped:
                raise UsageError(f"--drop-prompt '{prompt}': run {run} has no such prompt; it has {', '.join(known)}")
        if not self.applied(known):
            raise UsageError(
                f"--drop-prompt '{self.drop[-1]}': no prompt of run {run} would be left; sam3-delete {argument} "
                "forgets the run"
            )


def agrees(known: KnownRun, given: Iterable[str], now: Iterable[str]) -> bool:
    """Whether the prompts that are `given` are those of the run, which are `now`, or those that it had before some
    were added or dropped. So a command that is repeated goes on after another one has changed the prompts."""
    return set(given) ^ set(now) <= known.changed


NO_CHANGE = PromptChange()
