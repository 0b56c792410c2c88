"""Encodes masks as Label Studio's brush does. Knows pixels and bits, but no files."""

import numpy as np
from numpy.typing import NDArray

from workers.inference.shapes.rle import run_lengths

SIZES = np.array([3, 4, 8, 16])  # bits of the four lengths that a run may have
MOST = 1 << 16  # values of a run; a longer one becomes several
VALUE_BITS, WORD_BITS = 8, 32
CHANNELS = 4  # the brush is red, green, blue, alpha

Integers = NDArray[np.int64]


def brush_rle(height: int, width: int, rle: bytes) -> list[int]:
    """The bytes of Label Studio's RLE: the four channels of each pixel, row by row, all 0 or 255.

    `rle` are compressed COCO RLE counts. The format is that of @thi.ng/rle-pack: 32 bits for the number of values, 5
    for their size - 1, four times 4 for the sizes of lengths - 1; then for each run a 1, 2 bits for the size of its
    length, the length - 1, and the value. Source: `decode_rle` in label_studio_sdk/converter/brush.py.
    """
    size = height * width
    ends = np.append(_changes(rle, height, width), size)
    lengths, values = _at_most(np.diff(ends, prepend=0) * CHANNELS, np.arange(len(ends)) % 2)
    kinds = np.searchsorted(1 << SIZES, lengths)  # the smallest size that holds the length
    sizes = SIZES[kinds]
    runs = (((1 << 2 | kinds) << sizes | (lengths - 1)) << VALUE_BITS) | values * 255
    header = f"{size * CHANNELS:032b}{VALUE_BITS - 1:05b}{''.join(f'{size - 1:04b}' for size in SIZES)}"
    bits = np.concatenate([np.frombuffer(header.encode(), np.uint8) - ord("0"), _bits(runs, 3 + sizes + VALUE_BITS)])
    packed: list[int] = np.packbits(bits).tolist()
    return packed


def _changes(rle: bytes, height: int, width: int) -> Integers:
    """The pixels that differ from the one before them, counted row by row; the first one if it is in the mask.

    No mask is drawn, so the time grows with the outline of the mask and not with the size of the image.
    """
    edges = np.cumsum(np.fromiter(run_lengths(rle), np.int64))
    edges = edges[: len(edges) // 2 * 2]  # first pixels in the mask and behind it, in turn, counted down the columns
    # A pixel differs from its left neighbour where the mask and the mask moved by a column differ.
    edges = _odd(np.concatenate((edges, edges + height)))
    starts, ends = edges[0::2], edges[1::2]
    before = np.cumsum(ends - starts) - (ends - starts)
    columns, rows = np.divmod(np.repeat(starts - before, ends - starts) + np.arange((ends - starts).sum()), height)
    # Behind the last column comes the next row: a change at both of these pixels is none.
    changes = _odd(rows * width + columns)
    return changes[changes < height * width]


def _odd(numbers: Integers) -> Integers:
    """The numbers that are there an odd number of times, each once, in rising order."""
    found, counts = np.unique(numbers, return_counts=True)
    odd: Integers = found[counts % 2 == 1]
    return odd


def _at_most(lengths: Integers, values: Integers) -> tuple[Integers, Integers]:
    """The runs, each longer than `MOST` values cut into several, and those of no value left out."""
    parts = -(-lengths // MOST)
    split = np.full(parts.sum(), MOST)
    split[np.cumsum(parts) - 1] = lengths - (parts - 1) * MOST
    return split, np.repeat(values, parts)


def _bits(numbers: Integers, sizes: Integers) -> NDArray[np.uint8]:
    """The lowest bits of each number, as many as its size says, one after the other."""
    words = (numbers << (WORD_BITS - sizes)).astype(">u4")  # their first bits
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, WORD_BITS // 8), axis=1)
    return bits[np.arange(WORD_BITS) < sizes[:, np.newaxis]]
