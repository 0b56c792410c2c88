"""Binary masks as COCO run-length encoding (RLE), and back. Knows nothing of models or files.

An RLE here is the compressed `counts` of pycocotools as bytes. Its size (height, width) is the image's and is kept
with the image, so every function takes it. Runs go down the columns.
"""

from typing import cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from workers.inference.shapes.rle import Mask as Mask
from workers.inference.shapes.rle import decode as decode


def encode(mask: npt.NDArray[np.bool_ | np.uint8]) -> bytes:
    """The RLE of a mask of shape (height, width). Nothing is copied if it is uint8 and in column order."""
    return cast(bytes, coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"])


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


def box(rle: bytes, height: int, width: int) -> tuple[float, float, float, float]:
    """The smallest box around a mask: x1, y1, x2, y2 in pixels, x2 and y2 behind the last column and row."""
    x, y, wide, tall = coco.toBbox(_coco(rle, height, width)).tolist()
    return x, y, x + wide, y + tall


def from_lengths(lengths: list[int], height: int, width: int) -> bytes:
    """The RLE of a mask whose runs have these lengths, the first one outside; they sum to height x width pixels."""
    return cast(bytes, coco.frPyObjects({"counts": lengths, "size": [height, width]}, height, width)["counts"])
