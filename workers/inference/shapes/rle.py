"""The run lengths and the pixels of a COCO mask, out of its compressed counts. Needs no library but numpy for pixels.

The format is that of `rleToString` and `rleFrString` in cocoapi's `maskApi.c`
(https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # run lengths are for those who have no numpy, too
    import numpy as np
    import numpy.typing as npt

Mask: TypeAlias = "npt.NDArray[np.bool_]"
"""A binary mask of shape (height, width)."""


def run_lengths(rle: bytes) -> Iterator[int]:
    """The lengths of a mask's runs, in pixels, down the columns; the first run is outside the mask.

    `rle` are compressed counts as pycocotools gives them. A length takes one or more bytes of five bits, the lowest
    bits first; from the fourth length on it is told as the difference to the length two before it.
    """
    number = shift = index = 0
    before = last = 0  # the two lengths before this one
    for byte in rle:
        bits = byte - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more bytes follow
            continue
        if bits & 0x10:  # the number is negative
            number -= 1 << shift
        before, last = last, number + (before if index > 2 else 0)
        yield last
        number = shift = 0
        index += 1


def decode(rle: bytes, height: int, width: int) -> Mask:
    """The mask of these compressed counts, of shape (height, width).

    As pycocotools' own `decode`, which raises a deprecation warning in numpy 2.
    """
    import numpy as np

    lengths = list(run_lengths(rle))
    inside = np.arange(len(lengths)) % 2 == 1  # the first run is outside
    return np.repeat(inside, lengths).reshape(width, height).T
