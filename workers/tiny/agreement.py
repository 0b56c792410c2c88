"""Counts how well found masks agree with the drawn ones. Knows masks only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ious = NDArray[np.float64]  # (found, drawn)

MATCH_IOU = 0.5  # a found mask with at least this IoU counts as the drawn one


@dataclass(frozen=True)
class Agreement:
    """Numbers of instances, summed over images and prompts."""

    drawn: int = 0
    found: int = 0
    matched: int = 0  # found instances that match a drawn one
    iou_sum: float = 0.0  # of the matched instances

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.drawn + other.drawn,
            self.found + other.found,
            self.matched + other.matched,
            self.iou_sum + other.iou_sum,
        )

    @property
    def precision(self) -> float:
        return self.matched / max(1, self.found)

    @property
    def recall(self) -> float:
        return self.matched / max(1, self.drawn)

    @property
    def f1(self) -> float:
        return 2 * self.matched / max(1, self.found + self.drawn)

    @property
    def mean_iou(self) -> float:
        """The mean IoU of the matched instances."""
        return self.iou_sum / max(1, self.matched)


def agree(ious: Ious) -> Agreement:
    """Match found instances (rows of `ious`) with drawn ones (columns), best IoU first, each at most once."""
    found, drawn = ious.shape
    left = ious.copy()
    matched: list[float] = []
    while left.size and (best := float(left.max())) >= MATCH_IOU:
        row, column = np.unravel_index(left.argmax(), left.shape)
        left[row, :] = left[:, column] = -1
        matched.append(best)
    return Agreement(drawn, found, len(matched), sum(matched))


def mask_ious(found: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> Ious:
    """Return the IoU of each found (n, height, width) with each drawn mask (m, height, width), (n, m)."""
    # The number of pixels is given, as numpy cannot find it with -1 if there are no masks.
    pixels = drawn.shape[1] * drawn.shape[2]
    rows = found.reshape(len(found), pixels).astype(np.float64)
    columns = drawn.reshape(len(drawn), pixels).astype(np.float64)
    both = rows @ columns.T
    either = rows.sum(1)[:, None] + columns.sum(1)[None] - both
    result: Ious = both / np.maximum(either, 1)
    return result
