"""Counts what a choice of instances would find, so that a threshold is chosen by looking. Knows no SQL and no files."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from db.session import Sessions
from db.views.results import done_results
from db.views.status import RunView
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


def tally(sessions: Sessions, view: RunView, choice: Choice, tell: Callable[[int], None]) -> Tally:
    """Count the instances of all done images. `tell` is called with the number of images so far.

    The memory does not grow with the run. Raises `RunGone`.
    """
    choose = Chooser(view, choice)
    instances, images = Counter[int](), Counter[int]()
    done = empty = 0
    for results, size in done_results(
        sessions, view.id, choose.least_score, masks=choice.compares and choice.iou == MASK
    ):
        found = {one.class_id: len(one.instances) for one in choose(results, size) if one.instances}
        instances.update(found)
        images.update(found.keys())
        done, empty = done + 1, empty + (not found)
        tell(done)
    counts = (ClassCount(one.name, instances[id], images[id]) for id, one in view.classes.items())
    return Tally(choice, done, empty, tuple(counts))


def table(view: RunView, tallies: list[Tally]) -> Table:
    """What `sam3-status RUN --at` shows on a terminal."""
    shown = Table("at", "class", "instances", "images", box=None, padding=(0, 2))
    for one in tallies:
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
