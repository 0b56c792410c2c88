"""Binary masks as COCO run-length encoding (RLE), and back. Knows nothing of models or files.

An RLE here is the compressed `counts` of pycocotools as bytes. Its size (height, width) is the image's and is kept
with the image, so every function takes it. Runs go down the columns.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from workers.inference.rle import run_lengths

Mask = npt.NDArray[np.bool_]
"""A binary mask of shape (height, width)."""
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


def encode(mask: npt.NDArray[np.bool_ | np.uint8]) -> bytes:
    """The RLE of a mask of shape (height, width). Nothing is copied if it is uint8 and in column order."""
    return cast(bytes, coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"])


def encode_enlarged(small: Floats, height: int, width: int, cut: float) -> bytes:
    """The RLE of a mask that a model gives in low resolution: `small` enlarged to (height, width), where over `cut`.

    Equal, pixel by pixel, to torch's `interpolate(small, (height, width), mode="bilinear", align_corners=False) > cut`,
    without making it; but for pixels whose value is the cut itself, where the last bit decides.

    The work goes with the length of the mask's outline: a cell of `small`, between four neighbours, has an edge in it
    only if they lie on different sides of the cut. Down a column of pixels a cell rises or falls steadily, so there is
    one edge at most, and it is searched for.
    """
    across, down = _axis(small.shape[1], width), _axis(small.shape[0], height)
    small = np.concatenate((small, small[:, -1:]), axis=1)  # so that each column has a neighbour to its right
    inside = small > cut
    beside = inside[:-1] != inside[1:]
    mixed = beside[:, :-1] | beside[:, 1:] | (inside[:-1, :-1] != inside[:-1, 1:])
    row, cell = np.divmod(np.flatnonzero(mixed), mixed.shape[1])
    column, of = across.pixels(cell)
    weight = across.weight[column]
    above, below = (_between(small[at, cell][of], small[at, cell + 1][of], weight) for at in (row, row + 1))
    crossing = (above > cut) != (below > cut)
    edges = down.crossings(row[of][crossing], above[crossing], below[crossing], cut)
    # And where a column of pixels starts on another side than the one before it ended; outside all is outside.
    low, high = small[[0, -1]][:, across.low], small[[0, -1]][:, across.low + 1]
    starts, ends = _between(low, high, across.weight) > cut
    changes = np.flatnonzero(starts != np.concatenate(([False], ends[:-1])))
    return _from_flips(np.concatenate((column[crossing] * height + edges, changes * height)), height, width)


@dataclass(frozen=True, eq=False)
class _Axis:
    """How bilinear interpolation enlarges (or shrinks) an axis of m values to n pixels."""

    low: Indices  # (n,) the value at or before each pixel
    weight: Floats  # (n,) of the value after it
    first: Indices  # (m + 1,) the first pixel that has this value, or a later one, before it

    def pixels(self, values: Indices) -> tuple[Indices, Indices]:
        """The pixels behind each of these values, and the number, in `values`, of the one that each is behind."""
        first = self.first[values]
        count = self.first[values + 1] - first
        of = np.repeat(np.arange(len(values)), count)
        return np.arange(len(of)) + (first - (np.cumsum(count) - count))[of], of

    def crossings(self, values: Indices, before: Floats, after: Floats, cut: float) -> Indices:
        """Behind each of these values, the first pixel that is on the side of `after`, the next value."""
        start, end = self.first[values], self.first[values + 1]
        side = after > cut
        while (searched := start < end).any():
            middle = np.minimum((start + end) // 2, len(self.low) - 1)
            reached = (_between(before, after, self.weight[middle]) > cut) == side
            end = np.where(searched & reached, middle, end)
            start = np.where(searched & ~reached, middle + 1, start)
        return start


@lru_cache(256)  # up to 100 kB each
def _axis(values: int, pixels: int) -> _Axis:
    # In float32 as torch does it, with one rounding for product and difference together.
    scale = float(np.float32(values) / np.float32(pixels))
    position = np.maximum((scale * (np.arange(pixels) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    low = np.minimum(position.astype(np.intp), values - 1)
    return _Axis(low, position - low.astype(np.float32), np.searchsorted(low, np.arange(values + 1)))


def _between(low: Floats, high: Floats, weight: Floats) -> Floats:
    """Linear interpolation, rounded as torch rounds it on a CPU: once after the second product, once at the end."""
    return cast(Floats, ((1 - weight).astype(np.float64) * low + weight * high).astype(np.float32))


def _from_flips(flips: Indices, height: int, width: int) -> bytes:
    """The RLE of the mask that begins outside and changes sides at these pixels, counted down the columns.
    Two changes at one pixel are none."""
    pixels, times = np.unique(flips, return_counts=True)
    pixels = pixels[(times % 2 == 1) & (pixels < height * width)]
    counts = np.diff(pixels, prepend=0, append=height * width)
    return cast(bytes, coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"])


def decode(rle: bytes, height: int, width: int) -> Mask:
    """The mask, of shape (height, width). (pycocotools' own decode raises a deprecation warning in numpy 2.)"""
    lengths = list(run_lengths(rle))
    inside = np.arange(len(lengths)) % 2 == 1  # the first run is outside
    return np.repeat(inside, lengths).reshape(width, height).T


def area(rle: bytes, height: int, width: int) -> int:
    """The number of pixels inside, counted from the runs."""
    return int(coco.area(_coco(rle, height, width)))


def iou(one: bytes, other: bytes, height: int, width: int) -> float:
    """Intersection over union of two masks of one image, from the runs. Two empty masks are equal: 1."""
    if not area(one, height, width) and not area(other, height, width):
        return 1.0
    return float(coco.iou([_coco(one, height, width)], [_coco(other, height, width)], [0])[0, 0])


def _coco(rle: bytes, height: int, width: int) -> dict[str, object]:
    return {"size": [height, width], "counts": rle}
