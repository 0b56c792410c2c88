"""Draws a mask as PNG. Knows pixels, but no files and no runs. Imports little, as helper processes import it."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, PngImagePlugin
from pycocotools import mask as coco_mask

# zlib's strategy Z_RLE (https://www.zlib.net/manual.html): masks have long runs of one value, so the files are smaller
# and written in half of the time.
RUN_LENGTHS = 3


def draw(height: int, width: int, rles: Sequence[bytes], texts: Sequence[bytes]) -> bytes:
    """The union of some masks as PNG: height x width pixels of 8 bits, 0 or 255, with `texts` as its first text chunks.

    `rles` are compressed COCO RLE counts. They are united as RLE (`pycocotools.mask.merge`), so that only one mask is
    decoded. A text is keyword, NUL, and value (PNG specification, chunk tEXt).
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
