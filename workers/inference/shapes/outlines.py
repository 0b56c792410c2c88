"""Masks that a model gives in low resolution, as the RLE of their enlarged form, which is never made.

The loops are compiled by numba when the first mask comes, which takes about a second; later processes find them
compiled (`workers.inference.kept_code`). Compiled they let go of Python's lock, so that whoever launches the next batch
meanwhile is not held up. Knows no models and no files.

The work goes with the length of a mask's outline: a cell, between four neighbours of the low resolution, has an edge
in it only if they lie on different sides of the cut. Down a column of pixels a cell rises or falls steadily, so there
is one edge at most, and it is searched for.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from workers.inference.kept_code import keep

Work = TypeVar("Work", bound=Callable[..., object])
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_MOST_BYTES = 13  # of one length in the compressed counts: 64 bits, five a byte


class _Axis(NamedTuple):
    """How bilinear interpolation enlarges (or shrinks) an axis of m values to n pixels."""

    low: Integers  # (n,) the value at or before each pixel
    weight: Floats  # (n,) of the value after it
    first: Integers  # (m + 1,) for each value the first pixel whose `low` is this value or a later one


def encode(small: Floats, height: int, width: int, cut: float) -> list[tuple[bytes, int]]:
    """The RLE and the area of each mask of `small`, of shape (n, h, w), enlarged to (height, width), where over `cut`.

    Equal, pixel by pixel, to torch's `interpolate(small, (height, width), mode="bilinear", align_corners=False) > cut`,
    except for pixels whose value is the cut itself, where the last bit decides. Raises `ValueError` for masks that hold
    a NaN, which compares as if it were outside: what a broken model makes must not look like an empty mask.
    """
    if len(small) and np.isnan(small.max()):
        raise ValueError("the model gave nan in a mask; try --dtype fp32")
    across, down = _axis(small.shape[2], width), _axis(small.shape[1], height)
    data, ends, areas = _encode(np.ascontiguousarray(small), across, down, np.float32(cut))
    counts, stops = data.tobytes(), ends.tolist()
    return [(counts[a:b], area) for a, b, area in zip([0, *stops], stops, areas.tolist(), strict=False)]


@lru_cache(256)  # up to 100 kB each
def _axis(values: int, pixels: int) -> _Axis:
    # In float32 as torch does it, with one rounding for product and difference together.
    scale = float(np.float32(values) / np.float32(pixels))
    position = np.maximum((scale * (np.arange(pixels) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    low = np.minimum(position.astype(np.int64), values - 1)
    first = np.searchsorted(low, np.arange(values + 1)).astype(np.int64)
    return _Axis(low, position - low.astype(np.float32), first)


def _compiled(work: Work) -> Work:
    """Compiled for the types of its first call, and run without Python's lock."""
    return cast(Work, numba.njit(nogil=True)(work))


@_compiled
def _encode(small: Floats, across: _Axis, down: _Axis, cut: np.float32) -> tuple[Bytes, Integers, Integers]:
    """The compressed counts of all masks, one behind the other; where each one's end, and its area."""
    data, ends, areas = np.empty(0, np.uint8), np.empty(len(small), np.int64), np.empty(len(small), np.int64)
    end = len(data)  # not 0, for which numba would compile what it calls here once more
    for number in range(len(small)):
        mask = small[number]
        flips = _find_flips(mask, across, down, cut, _find_cells(mask, cut))
        data = _with_room(data, end, _MOST_BYTES * (len(flips) + 1))
        end, areas[number] = _write(flips, len(across.low) * len(down.low), data, end)
        ends[number] = end
    return data[:end], ends, areas


@_compiled
def _find_cells(small: Floats, cut: np.float32) -> tuple[Integers, Integers]:
    """Where an edge may be: for each column of `small` the rows of the cells to its right, and how many these are."""
    rows, columns = small.shape
    inside = np.empty((rows, columns + 1), np.uint8)
    for row in range(rows):
        for column in range(columns):
            inside[row, column] = small[row, column] > cut
        inside[row, columns] = inside[row, columns - 1]  # so that each column has a neighbour to its right
    cells, found = np.empty((columns, rows), np.int64), np.empty(columns, np.int64)
    for column in range(columns):
        found[column] = 0
    mixed = np.empty(columns, np.uint8)
    for row in range(rows - 1):
        for column in range(columns):  # apart from the loop below, so that the processor takes many at once
            corner, below = inside[row, column], inside[row + 1, column]
            mixed[column] = (
                (corner ^ below) | (corner ^ inside[row, column + 1]) | (corner ^ inside[row + 1, column + 1])
            )
        for column in range(columns):
            if mixed[column]:
                cells[column, found[column]] = row
                found[column] += 1
    return cells, found


@_compiled
def _find_flips(
    small: Floats, across: _Axis, down: _Axis, cut: np.float32, mixed: tuple[Integers, Integers]
) -> Integers:
    """The pixels, counted down the columns, at which the mask changes sides. It begins outside."""
    cells, found = mixed
    height, width, last = len(down.low), len(across.low), small.shape[1] - 1
    most = width
    for left in across.low:
        most += found[left]
    flips, count, inside = np.empty(most, np.int64), 0, False
    for x in range(width):
        left, weight = across.low[x], across.weight[x]
        right = left + 1 if left < last else last
        # First, as if above all cells, the top of the column: it may be on another side than the end of the one before.
        for number in range(-1, found[left]):
            row = cells[left, number] if number >= 0 else -1
            after = _between(small[row + 1, left], small[row + 1, right], weight)
            if (after > cut) == inside:
                continue
            inside = not inside
            pixel = x * height
            if row >= 0:
                before = _between(small[row, left], small[row, right], weight)
                pixel += _edge(before, after, cut, row, down)
            if count > 0 and flips[count - 1] == pixel:  # two changes at one pixel are none
                count -= 1
            else:
                flips[count] = pixel
                count += 1
    if count > 0 and flips[count - 1] == width * height:  # behind the last pixel nothing changes
        count -= 1
    return flips[:count]


@_compiled
def _edge(before: np.float32, after: np.float32, cut: np.float32, row: int, down: _Axis) -> int:
    """Of the pixels behind this row the first one on the side of `after`; if none is, the one behind them."""
    start: int = down.first[row]
    end: int = down.first[row + 1]
    while start < end:
        middle = (start + end) // 2
        if (_between(before, after, down.weight[middle]) > cut) == (after > cut):
            end = middle
        else:
            start = middle + 1
    return start


@_compiled
def _between(low: np.float32, high: np.float32, weight: np.float32) -> np.float32:
    """Linear interpolation, rounded as torch rounds it on a CPU: once after the second product, once at the end."""
    return np.float32(np.float64(np.float32(1) - weight) * np.float64(low) + np.float64(weight * high))


@_compiled
def _with_room(data: Bytes, end: int, more: int) -> Bytes:
    """The same up to `end`, with room for so many bytes more."""
    if end + more <= len(data):
        return data
    larger = np.empty(2 * (end + more), np.uint8)
    for at in range(end):
        larger[at] = data[at]
    return larger


@_compiled
def _write(flips: Integers, pixels: int, data: Bytes, end: int) -> tuple[int, int]:
    """Write the compressed counts, as `shapes.rle` reads them, of a mask of so many pixels behind `end`;
    returns their end, and the mask's area."""
    area = start = before = last = 0
    for index in range(len(flips) + 1):
        stop = flips[index] if index < len(flips) else pixels
        length = stop - start
        if index % 2:
            area += length
        number, more = length - before if index > 2 else length, True
        while more:
            bits = number & 0x1F
            number >>= 5
            more = number != (-1 if bits & 0x10 else 0)
            data[end] = 48 + bits + (0x20 if more else 0)
            end += 1
        start, before, last = stop, last, length
    return end, area


keep(_encode, Path(__file__))  # with all that it calls
