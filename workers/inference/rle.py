"""The run lengths of a COCO mask, out of its compressed counts. Knows no pixels, and needs no library.

The format is that of `rleToString` and `rleFrString` in cocoapi's `maskApi.c`
(https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c).
"""

from collections.abc import Iterator


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
