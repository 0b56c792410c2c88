"""What a command asks of a run besides its rows. Knows no database."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from db.values import Frozen
from producer.runs.prompts import NO_CHANGE, PromptChange
from workers.cli.base import spelled_run

Check = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class RunRequest:
    """What a command asks of a run besides its rows. `advice`, `argument` and `copy` are those of `Wanted`."""

    name: str
    prompts: tuple[str, ...]  # prompts of every image
    frozen: Frozen
    chunk_size: int | None = None  # None: chosen by the size of the run
    limit: int | None = None  # most rows to read; another limit is no other setting
    sample: int | None = None  # how many random rows to read, instead of all; another sample is no other setting
    seed: int = 0  # of the sample
    advice: str = "Give this one another name with --run, or the same settings"
    argument: str | None = ""  # empty: the name
    copy: str = ""  # empty: made from the name
    moved_from: str | None = None  # where the source was when the run was recorded
    check: Check | None = None  # checks paths of new rows before they are recorded, and may raise `UsageError`
    change: PromptChange = NO_CHANGE  # of the prompts of a run that was recorded before
    announce: Callable[[], None] = lambda: None  # is called before they are changed
    place: str | None = None  # where the source will be, if it is read from a copy that is not kept

    @property
    def run(self) -> str:
        """RUN as another command needs it."""
        return self.argument or spelled_run(self.name)
