"""Counts what a choice of instances would find, so that a threshold is chosen by looking. Knows no SQL and no files."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from db.session import Sessions
from db.values import PromptResult
from db.views.results import Size, done_results
from db.views.run_views import RunView
from producer.results.choice import MASK, Choice, Chooser

SHOWN_CLASSES = 20  # on a terminal; rows may bring any number of classes


@dataclass(frozen=True)
class ClassCount:
    """What would be found of one class."""

    name: str
    instances: int
    images: int  # with at least one of them


@dataclass(frozen=True)
class Tally:
    """What a choice would find in the done images of a run. Duplicates are not counted again."""

    choice: Choice
    images: int
    empty: int  # of these, images in which nothing would be found
    classes: tuple[ClassCount, ...]  # in the order of the run's classes

    @property
    def instances(self) -> int:
        return sum(one.instances for one in self.classes)

    def as_json(self) -> dict[str, Any]:
        return {
            **self.choice.record(),
            "images": self.images,
            "empty": self.empty,
            "instances": self.instances,
            "classes": [asdict(one) for one in self.classes],
        }


class _Counter:
    """What one choice has found so far."""

    def __init__(self, view: RunView, choice: Choice) -> None:
        self._view, self._choice, self._choose = view, choice, Chooser(view, choice)
        self._instances, self._images = Counter[int](), Counter[int]()
        self._done = self._empty = 0
        self.least_score = self._choose.least_score

    def add(self, results: Sequence[PromptResult], size: Size, least: float) -> None:
        """Count an image. Its instances have at least the score `least`, that of the most generous choice."""
        if least < self.least_score:
            results = [_at_least(result, self.least_score) for result in results]
        found = {one.class_id: len(one.instances) for one in self._choose(results, size) if one.instances}
        self._instances.update(found)
        self._images.update(found.keys())
        self._done, self._empty = self._done + 1, self._empty + (not found)

    def tally(self) -> Tally:
        classes = (
            ClassCount(one.name, self._instances[id], self._images[id]) for id, one in self._view.classes.items()
        )
        return Tally(self._choice, self._done, self._empty, tuple(classes))


def _at_least(result: PromptResult, score: float) -> PromptResult:
    """The result with only those instances that have this score."""
    return replace(result, instances=tuple(one for one in result.instances if one.score >= score))


def tallies(sessions: Sessions, view: RunView, choices: Sequence[Choice], tell: Callable[[int], None]) -> list[Tally]:
    """Count for each choice the instances of all done images, which are read once. `tell` is called with the number of
    images so far.

    The memory does not grow with the run. Raises `RunGone`.
    """
    counters = [_Counter(view, choice) for choice in choices]
    least = min(counter.least_score for counter in counters)
    masks = any(choice.compares and choice.iou == MASK for choice in choices)
    for done, (results, size) in enumerate(done_results(sessions, view.id, least, masks=masks), start=1):
        for counter in counters:
            counter.add(results, size, least)
        tell(done)
    return [counter.tally() for counter in counters]


def table(counted: Sequence[Tally]) -> Table:
    """What `sam3-status RUN --at` shows on a terminal."""
    shown = Table("at", "class", "instances", "images", box=None, padding=(0, 2))
    for one in counted:
        at = one.choice.told()
        most = sorted(one.classes, key=lambda count: -count.instances)[:SHOWN_CLASSES]
        for count in (count for count in one.classes if count in most):
            shown.add_row(Text(at), Text(count.name), f"{count.instances:,}", f"{count.images:,}")
            at = ""
        if hidden := len(one.classes) - len(most):
            shown.add_row("", f"({hidden:,} more classes)", "", "")
        shown.add_row("", "(all)", f"{one.instances:,}", f"{one.images - one.empty:,}")
        shown.add_row("", "(empty)", "", f"{one.empty:,}")
    return shown
