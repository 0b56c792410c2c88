"""The tight box of a mask, computed from its COCO RLE. Knows no pixels, no SQL and no file formats.

pycocotools is a hundred times as fast and is used where it is installed. A producer without the `worker` extra uses the
Python code below, which gives the same numbers.
"""

from collections.abc import Sequence

from workers.inference.shapes.rle import run_lengths

try:
    from pycocotools import mask as _coco
except ImportError:
    _coco = None

Box = tuple[int, int, int, int]  # x, y, width, height in whole pixels, as COCO counts them
NO_BOX: Box = (0, 0, 0, 0)


def tight_boxes(rles: Sequence[bytes], height: int, width: int) -> list[Box]:
    """The smallest box around all pixels of each mask of one image; `NO_BOX` for a mask without a pixel.

    `rles` are compressed COCO RLE counts of masks of `height` x `width` pixels.
    """
    if not rles or _coco is None:
        return [box_from_runs(rle, height) for rle in rles]
    found = _coco.toBbox([{"size": [height, width], "counts": rle} for rle in rles])
    return [(int(x), int(y), int(across), int(down)) for x, y, across, down in found.tolist()]


def box_from_runs(rle: bytes, height: int) -> Box:
    """The box that `pycocotools.mask.toBbox` gives, in plain Python.

    Runs go down the columns; the first run is outside the mask, the next one inside, and so on.
    """
    left = right = bottom = -1
    top = height
    position = 0
    for index, length in enumerate(run_lengths(rle)):
        if index % 2 and length:
            first_column, first_row = divmod(position, height)
            right, last_row = divmod(position + length - 1, height)
            if right > first_column:  # the run passes the lower edge and continues at the top of the next column
                first_row, last_row = 0, height - 1
            left = first_column if left < 0 else left
            top, bottom = min(top, first_row), max(bottom, last_row)
        position += length
    return NO_BOX if left < 0 else (left, top, right - left + 1, bottom - top + 1)
