"""A mask as a PNG. Knows pixels, but neither files nor runs, and imports little: it works in processes of its own."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, PngImagePlugin
from pycocotools import mask as coco_mask

RUN_LENGTHS = (
    3  # zlib's Z_RLE: a mask has long stretches of one value, and so it is smaller and done in half of the time
)


def draw(height: int, width: int, rles: Sequence[bytes], texts: Sequence[bytes]) -> bytes:
    """The union of the masks, height x width of 0 and 255 in 8 bits, as PNG with `texts` as its first chunks.

    `rles` are COCO RLE counts. Unions are made of those, so that only one mask is decoded.
    """
    rle = coco_mask.merge([{"size": [height, width], "counts": counts} for counts in rles])
    pixels = np.ascontiguousarray(coco_mask.decode(rle))
    pixels *= np.uint8(255)
    info = PngImagePlugin.PngInfo()
    for text in texts:
        info.add(b"tEXt", text)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", pnginfo=info, compress_level=6, compress_type=RUN_LENGTHS)
    return file.getvalue()
