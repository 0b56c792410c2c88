"""Encodes masks as Label Studio's brush does. Knows pixels and bits, but no files."""

import numpy as np
from pycocotools import mask as coco_mask

SIZES = (3, 4, 8, 16)  # bits of the four lengths that a run may have
CHANNELS = 4  # the brush is red, green, blue, alpha


def brush_rle(height: int, width: int, rle: bytes) -> list[int]:
    """The bytes of Label Studio's RLE: the four channels of each pixel, row by row, all 0 or 255.

    `rle` are compressed COCO RLE counts. The format is that of @thi.ng/rle-pack: 32 bits for the number of values, 5
    for their size - 1, four times 4 for the sizes of lengths - 1; then for each run a 1, 2 bits for the size of its
    length, the length - 1, and the value. Source: `decode_rle` in label_studio_sdk/converter/brush.py.
    """
    mask = coco_mask.decode({"size": [height, width], "counts": rle}).ravel()
    ends = np.append(np.flatnonzero(np.diff(mask)) + 1, mask.size)
    values = mask[ends - 1].tolist()
    bits = [f"{mask.size * CHANNELS:032b}{7:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for length, value in zip((np.diff(ends, prepend=0) * CHANNELS).tolist(), values, strict=True):
        colour = "11111111" if value else "00000000"
        most = 1 << SIZES[-1]
        for part in (*[most] * (length // most), length % most):
            if part:
                kind = next(number for number, size in enumerate(SIZES) if part <= 1 << size)
                bits.append(f"1{kind:02b}{part - 1:0{SIZES[kind]}b}{colour}")
    text = "".join(bits)
    return list(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big"))
