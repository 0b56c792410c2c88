"""A mask as the spans of pixels that it has in each column: moved, cut, measured and joined without drawing it.

Knows masks of one image, whose height all of them share. Knows no models and no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workers.inference.shapes.masks import from_lengths
from workers.inference.shapes.rle import run_lengths

Integers = npt.NDArray[np.int64]
Rectangle = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, without the last column and row."""


@dataclass(frozen=True, eq=False)
class Spans:
    """A mask. Pixels are counted down the columns, as in COCO RLE, so the pixel (x, y) is number x * height + y.

    `starts` and `ends` have a value for each span, in rising order; a span is without its end, lies within one column,
    and overlaps no other; spans may touch.
    """

    starts: Integers
    ends: Integers
    height: int  # of the image

    @classmethod
    def of(cls, rle: bytes, view: Rectangle, height: int) -> "Spans":
        """The mask of compressed COCO counts, made in a `view` of an image of this height, in the image's pixels."""
        x1, y1, _, y2 = view
        tall = y2 - y1
        edges = np.cumsum(np.fromiter(run_lengths(rle), np.int64))
        starts, ends = edges[: len(edges) // 2 * 2 : 2], edges[1::2]
        first, last = starts // tall, (ends - 1) // tall
        parts = last - first + 1  # a run goes on in the next column
        run = np.repeat(np.arange(len(starts)), parts)
        column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(parts) - parts, parts)
        top = np.maximum(starts[run], column * tall) - column * tall
        bottom = np.minimum(ends[run], (column + 1) * tall) - column * tall
        origin = (x1 + column) * height + y1
        return cls(origin + top, origin + bottom, height)

    @property
    def area(self) -> int:
        """Pixels."""
        return int((self.ends - self.starts).sum())

    @property
    def box(self) -> Rectangle:
        """The smallest rectangle around the mask. Of a mask without pixels it is empty."""
        if not len(self.starts):
            return 0, 0, 0, 0
        columns, tops = np.divmod(self.starts, self.height)
        bottoms = tops + self.ends - self.starts
        return int(columns[0]), int(tops.min()), int(columns[-1]) + 1, int(bottoms.max())

    def within(self, rectangle: Rectangle) -> "Spans":
        """The part of the mask inside a rectangle."""
        x1, y1, x2, y2 = rectangle
        first, last = np.searchsorted(self.starts, (x1 * self.height, x2 * self.height))
        starts, ends = self.starts[first:last], self.ends[first:last]
        origin = starts // self.height * self.height
        starts, ends = np.maximum(starts, origin + y1), np.minimum(ends, origin + y2)
        kept = starts < ends
        return Spans(starts[kept], ends[kept], self.height)

    def shared(self, other: "Spans") -> int:
        """How many pixels both masks have."""
        return int((self._before(other.ends) - self._before(other.starts)).sum())

    def _before(self, pixels: Integers) -> Integers:
        """For each of these pixels, how many pixels of the mask come before it."""
        begun = np.searchsorted(self.starts, pixels)  # spans that begin before the pixel
        sums = np.concatenate(([0], np.cumsum(self.ends - self.starts)))
        ends = np.concatenate(([0], self.ends))
        return sums[begun] - np.maximum(ends[begun] - pixels, 0)

    def rle(self, width: int) -> bytes:
        """The compressed COCO counts of the mask in an image of this width."""
        apart = self.starts[1:] != self.ends[:-1]  # spans that touch are one run
        starts = self.starts[np.concatenate((np.ones(min(1, len(self.starts)), bool), apart))]
        ends = self.ends[np.concatenate((apart, np.ones(min(1, len(self.starts)), bool)))]
        flips = np.stack((starts, ends), axis=1).ravel()
        flips = flips[flips < self.height * width]  # behind the last pixel nothing changes
        lengths = np.diff(flips, prepend=0, append=self.height * width)
        return from_lengths(lengths.tolist(), self.height, width)


def union(masks: Sequence[Spans]) -> Spans:
    """All pixels of at least one mask. There must be one."""
    starts, ends = (np.concatenate([getattr(mask, name) for mask in masks]) for name in ("starts", "ends"))
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order]) if len(order) else ends
    first = np.flatnonzero(np.concatenate((np.ones(min(1, len(starts)), bool), starts[1:] >= reach[:-1])))
    last = np.append(first[1:] - 1, len(starts) - 1)[: len(first)]
    return Spans(starts[first], reach[last], masks[0].height)
