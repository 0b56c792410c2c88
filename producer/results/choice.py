"""Which of the recorded instances count: a choice that needs no GPU. Knows no SQL, no files and no format.

It is made once for each image, while images are read. So every format, the Python reader and the status find the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from db.values import FoundInstance, PromptResult
from db.views.status import RunView


@dataclass(frozen=True)
class Choice:
    """Which instances count, in the order in which it is decided.

    Whether an image counts as segmented depends on the run's own threshold, and the pixels of a mask on the run's mask
    threshold: neither can be chosen again.
    """

    threshold: float  # the least score, 0 to 1
    min_area: int = 0  # pixels
    max_instances: int | None = None  # of one prompt in one image, those with the highest scores

    @classmethod
    def of_run(cls, view: RunView) -> Self:
        """The instances that the run itself counts as found."""
        return cls(view.frozen.threshold)

    @classmethod
    def recorded(cls, facts: Mapping[str, Any]) -> Self:
        """The choice that `record` has written. Raises `TypeError` if it has not."""
        return cls(**{setting.name: facts[setting.name] for setting in fields(cls) if setting.name in facts})

    def typed(self, view: RunView) -> list[str]:
        """The flags of sam3-export that choose the same from this run."""
        flags = [] if self.threshold == view.frozen.threshold else ["--threshold", str(self.threshold)]
        flags += ["--min-area", str(self.min_area)] if self.min_area else []
        return flags + ([] if self.max_instances is None else ["--max-instances", str(self.max_instances)])

    def record(self) -> dict[str, Any]:
        """What a folder of exported files says about it."""
        return asdict(self)

    @property
    def least_score(self) -> float:
        """No instance with a lower score counts."""
        return self.threshold

    def __call__(self, results: Sequence[PromptResult]) -> tuple[PromptResult, ...]:
        """The results of one image with only those instances that count, highest score first.

        The instances that are given have `least_score` already.
        """
        if not self.min_area and self.max_instances is None:
            return tuple(results)
        return tuple(replace(result, instances=self._of(result)) for result in results)

    def _of(self, result: PromptResult) -> tuple[FoundInstance, ...]:
        found = [instance for instance in result.instances if instance.area >= self.min_area]
        return tuple(found[: self.max_instances])
