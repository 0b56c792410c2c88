"""Which of the recorded instances count: a choice that needs no GPU. Knows no SQL, no files and no format.

It is made once for each image, while images are read. So every format, the Python reader and the status find the same.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from db.values import ClassResult, FoundInstance, PromptResult
from db.views.run_views import RunView
from producer.libraries import is_installed

MASK, BOX = "mask", "box"  # what overlaps are measured on
_NUMBER, _END = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]-?[0-9]+)?", r"\s*(?:,|$)"
# A number before the next comma is one for all classes, as names of classes may hold commas, too.
_THRESHOLD = re.compile(rf"\s*(?:(?={_NUMBER}{_END})|(.+?)\s*=\s*)({_NUMBER}){_END}")
_Found = dict[int, Sequence[FoundInstance]]  # by class


@dataclass(frozen=True)
class Choice:
    """Which instances count. The fields are applied in this order.

    Whether an image counts as segmented depends on the run's own threshold, and the pixels of a mask on the run's mask
    threshold: neither can be chosen again.
    """

    threshold: float  # the least score, 0 to 1
    class_thresholds: tuple[tuple[str, float], ...] = ()  # names of classes that have another one
    min_area: int = 0  # pixels
    nms: float | None = None  # the highest IoU with a better instance of the same class
    contain: float | None = None  # the share of the smaller of two instances from which one of the two is left out
    nms_across: bool = False  # instances of different classes are compared, too
    iou: str = MASK  # or box: what is compared
    max_instances: int | None = None  # of one class in one image, those with the highest scores

    @classmethod
    def of_run(cls, view: RunView) -> Self:
        """The instances that the run itself counts as found."""
        return cls(view.frozen.threshold)

    @classmethod
    def made(cls, view: RunView, thresholds: Mapping[str | None, float], **others: Any) -> Self:
        """The choice of a person, who gives thresholds by class, or by None for all other classes.

        Raises `ValueError` with what is wrong, beginning with the name of the setting.
        """
        own = tuple(sorted((name, least) for name, least in thresholds.items() if name is not None))
        choice = cls(thresholds.get(None, view.frozen.threshold), own, **others)
        choice._check_thresholds(view)
        choice._check_others()
        choice._check_comparison()
        return choice

    @classmethod
    def recorded(cls, facts: Mapping[str, Any]) -> Self:
        """The choice that `record` has written. Raises `TypeError` if it has not."""
        known = {setting.name: facts[setting.name] for setting in fields(cls) if setting.name in facts}
        return cls(**known | {"class_thresholds": tuple(dict(facts.get("class_thresholds", {})).items())})

    def record(self) -> dict[str, Any]:
        """What exported files say about it; most settings only if they were chosen."""
        facts: dict[str, Any] = {
            "threshold": self.threshold,
            "min_area": self.min_area,
            "max_instances": self.max_instances,
        }
        if self.class_thresholds:
            facts["class_thresholds"] = dict(self.class_thresholds)
        if self.compares:
            facts |= {"nms": self.nms, "contain": self.contain, "nms_across": self.nms_across, "iou": self.iou}
        return facts

    def typed(self, view: RunView) -> list[str]:
        """The flags of sam3-export that choose the same from this run."""
        flags = [] if self.threshold == view.frozen.threshold else ["--threshold", f"{self.threshold}"]
        for name, least in self.class_thresholds:
            flags += ["--threshold", f"{name}={least}"]
        return flags + self._typed_others()

    def told(self) -> str:
        """The choice in words, such as `0.5 person=0.7 --nms 0.7`."""
        thresholds = [f"{self.threshold:g}", *(f"{name}={least:g}" for name, least in self.class_thresholds)]
        return " ".join([*thresholds, *self._typed_others()])

    def _typed_others(self) -> list[str]:
        given: dict[str, Any] = {"min-area": self.min_area or None, "nms": self.nms, "contain": self.contain}
        given |= {"iou": self.iou if self.iou != MASK else None, "max-instances": self.max_instances}
        words = [word for name, value in given.items() if value is not None for word in (f"--{name}", f"{value}")]
        return words + ["--nms-across"] * self.nms_across

    @property
    def compares(self) -> bool:
        """Whether it leaves out instances that others overlap."""
        return self.nms is not None or self.contain is not None

    def _check_thresholds(self, view: RunView) -> None:
        names, floor = [one.name for one in view.classes.values()], view.frozen.score_floor
        for name, least in ((None, self.threshold), *self.class_thresholds):
            shown = f"threshold {least}" if name is None else f"threshold {name}={least}"
            if name is not None and name not in names:
                has = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
                raise ValueError(f"{shown}: the run has no class {name}; it has {has}")
            if not floor <= least <= 1:
                raise ValueError(f"{shown}: the run keeps instances from {floor} to 1; nothing below was recorded")

    def _check_others(self) -> None:
        if self.min_area < 0 or (self.max_instances is not None and self.max_instances < 1):
            raise ValueError(
                f"min_area {self.min_area}, max_instances {self.max_instances}: "
                "min_area is 0 or more, the other at least 1"
            )
        for setting, value in (("nms", self.nms), ("contain", self.contain)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{setting} {value}: a share above 0 and up to 1")

    def _check_comparison(self) -> None:
        if self.iou not in (MASK, BOX):
            raise ValueError(f"iou {self.iou}: {MASK} or {BOX}")
        if self.nms_across and not self.compares:
            raise ValueError("nms_across: it says how nms or contain compares; give one of them, too")
        if self.compares and not is_installed("pycocotools"):
            setting = "contain" if self.nms is None else "nms"
            raise ValueError(f"{setting}: it needs pycocotools: pip install 'sam3-queue[export]'")


def read_thresholds(text: str) -> dict[str | None, float]:
    """Thresholds that are written like `0.5`, `person=0.7` or `0.5,person=0.7`, by class; None: all other classes.

    Raises `ValueError`.
    """
    thresholds: dict[str | None, float] = {}
    place = 0
    while place < len(text) or not thresholds:
        found = _THRESHOLD.match(text, place)
        if found is None or not 0 <= float(found[2]) <= 1:
            raise ValueError(f"{text!r}: give a number from 0 to 1, or CLASS=NUMBER, such as person=0.7")
        if found[1] in thresholds:
            raise ValueError(f"{text!r}: two thresholds for {found[1] or 'all classes'}; give one")
        thresholds[found[1]] = float(found[2])
        place = found.end()
    return thresholds


class Chooser:
    """Applies a choice to the results of single images, and joins the prompts of each class."""

    def __init__(self, view: RunView, choice: Choice, newer: Callable[[], RunView] | None = None) -> None:
        """Results of prompts that came after `view` was read are left out, unless `newer` reads the run again."""
        self._view, self._choice, self._newer = view, choice, newer
        self._own = dict(choice.class_thresholds)
        self.least_score = min([choice.threshold, *self._own.values()])  # no lower score counts

    def __call__(self, results: Sequence[PromptResult], size: tuple[int, int]) -> tuple[ClassResult, ...]:
        """The classes of one image, in the order of their prompts, with only those instances that count.

        The instances that are given have `least_score` already. `size` is the height and width of the image.
        """
        by_class: dict[int, list[PromptResult]] = {}
        for result in self._known(results):
            by_class.setdefault(self._view.class_of[result.prompt_id], []).append(result)
        found: _Found = {id: self._good(id, alike) for id, alike in by_class.items()}
        if self._choice.compares:
            found = self._not_overlapped(found, size)
        most = self._choice.max_instances
        return tuple(
            ClassResult(id, *_joined(alike), tuple(found[id]) if most is None else tuple(found[id][:most]))
            for id, alike in by_class.items()
        )

    def _known(self, results: Sequence[PromptResult]) -> list[PromptResult]:
        """The results of prompts that the view knows. Other prompts were added, or added again, after it was read."""
        if self._newer is not None and any(result.prompt_id not in self._view.prompts for result in results):
            self._view = self._newer()
        return [result for result in results if result.prompt_id in self._view.prompts]

    def _good(self, class_id: int, results: Sequence[PromptResult]) -> Sequence[FoundInstance]:
        """The instances of a class that pass what is asked of each one alone, score and area; highest score first."""
        found: Sequence[FoundInstance] = results[0].instances
        if len(results) > 1:
            found = sorted((one for result in results for one in result.instances), key=lambda one: -one.score)
        if self._own:
            least = self._own.get(self._view.classes[class_id].name, self._choice.threshold)
            found = [one for one in found if one.score >= least]
        if self._choice.min_area:
            found = [one for one in found if one.area >= self._choice.min_area]
        return found

    def _not_overlapped(self, found: _Found, size: tuple[int, int]) -> _Found:
        from producer.results.overlaps import not_overlapped  # needs libraries that not every producer has

        choice = self._choice
        how: dict[str, Any] = {"nms": choice.nms, "contain": choice.contain, "boxes": choice.iou == BOX}
        if not choice.nms_across:
            return {id: [alike[n] for n in not_overlapped(alike, size, **how)] for id, alike in found.items()}
        pairs = sorted(((id, one) for id, alike in found.items() for one in alike), key=lambda pair: -pair[1].score)
        stay = [pairs[n] for n in not_overlapped([one for _, one in pairs], size, **how)]
        return {id: [one for of, one in stay if of == id] for id in found}


def _joined(results: Sequence[PromptResult]) -> tuple[float, bool]:
    """Presence and `capped` of a class."""
    if len(results) == 1:
        return results[0].presence, results[0].capped
    return max(result.presence for result in results), any(result.capped for result in results)
