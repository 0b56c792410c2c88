"""Draws masks as PNG. Knows pixels, but no files and no runs. Imports little, as helper processes import it."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from pycocotools import mask as coco_mask

Pixels = npt.NDArray[np.uint8]

# Options of Pillow's PNG writer for masks. 3 is zlib's strategy Z_RLE (https://www.zlib.net/manual.html): masks have
# long runs of one value, so the files are smaller and written in half of the time.
OF_MASKS = {"compress_level": 6, "compress_type": 3}
UNKNOWN = 128  # of a trimap
MOST_COLOURS = 256  # of a PNG with a palette


def draw(
    height: int, width: int, rles: Sequence[bytes], texts: Sequence[bytes], edits: Mapping[str, Any] | None = None
) -> bytes:
    """The union of some masks as PNG: height x width pixels of 8 bits, 0 or 255, with `texts` as its first text chunks.

    A text is keyword, NUL, and value (PNG specification, chunk tEXt). `edits` are arguments of `edited`.
    """
    return as_png(Image.fromarray(edited(union(height, width, rles), **(edits or {}))), texts, **OF_MASKS)


def draw_labels(
    height: int,
    width: int,
    labelled: Sequence[tuple[int, bytes]],
    texts: Sequence[bytes],
    most: int,
    colours: Mapping[int, tuple[int, int, int]],
) -> bytes:
    """A label map as PNG: height x width numbers, 0 where there is nothing.

    `labelled` are numbers with compressed COCO RLE counts; where masks overlap, the one that comes first counts. The
    PNG has 8 bits and a palette if `most`, the highest number that may come, fits into it; else it has 16 bits.
    `colours` has those numbers whose colour in the palette is not that of `colour`.
    """
    small = most < MOST_COLOURS
    pixels = np.zeros((height, width), np.uint8 if small else np.uint16)
    for number, rle in reversed(labelled):
        pixels[union(height, width, [rle]) > 0] = number
    image = Image.fromarray(pixels)
    if small:
        image.putpalette(list(itertools.chain.from_iterable(colours.get(n) or colour(n) for n in range(most + 1))))
    return as_png(image, texts, **OF_MASKS)


def union(height: int, width: int, rles: Sequence[bytes]) -> Pixels:
    """The union of masks: height x width of 0 and 255.

    `rles` are compressed COCO RLE counts. They are united as RLE (`pycocotools.mask.merge`), so that only one mask is
    decoded.
    """
    if not rles:
        return np.zeros((height, width), np.uint8)
    rle = coco_mask.merge([{"size": [height, width], "counts": counts} for counts in rles])
    pixels: Pixels = np.ascontiguousarray(coco_mask.decode(rle))
    pixels *= np.uint8(255)
    return pixels


def edited(pixels: Pixels, *, dilate: int = 0, invert: bool = False, feather: int = 0, trimap: int = 0) -> Pixels:
    """A mask of 0 and 255 as a `producer.results.exports.mask_style.MaskStyle` says; lengths are in pixels.

    Distances are Euclidean, between the centres of pixels (OpenCV's `distanceTransform`). What lies beyond the border
    of the image is as its border: a mask that touches it keeps touching it.
    """
    if dilate:
        pixels = np.where(_signed_distance(pixels) > -dilate, np.uint8(255), np.uint8(0))
    if invert:
        pixels = 255 - pixels
    if feather:
        soft = 0.5 + _signed_distance(pixels) / (2 * feather)
        return np.asarray(np.rint(255 * np.clip(soft, 0, 1)), np.uint8)
    if trimap:
        return np.where(np.abs(_signed_distance(pixels)) < trimap, np.uint8(UNKNOWN), pixels)
    return pixels


def _signed_distance(pixels: Pixels) -> npt.NDArray[np.float32]:
    """The distance of each pixel to the edge of the mask, in pixels: above 0 inside, below 0 outside.

    The edge lies half a pixel from the pixels on its both sides.
    """
    import cv2

    inside, outside = (
        cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (pixels, 255 - pixels)
    )
    return np.asarray(np.where(pixels > 0, inside - 0.5, 0.5 - outside), np.float32)


def colour(number: int) -> tuple[int, int, int]:
    """Red, green and blue of a number in a palette: that of PASCAL VOC, in which neighbours differ clearly and 0 is
    black. Source: `VOClabelcolormap` in http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCdevkit_18-May-2011.tar."""
    rgb = [0, 0, 0]
    for step in range(8):
        for channel in range(3):
            rgb[channel] |= (number >> (3 * step + channel) & 1) << (7 - step)
    return rgb[0], rgb[1], rgb[2]


def as_png(image: Image.Image, texts: Sequence[bytes], **how: int) -> bytes:
    """The image as PNG with these text chunks first; `how` are options of Pillow's PNG writer."""
    info = PngImagePlugin.PngInfo()
    for text in texts:
        info.add(b"tEXt", text)
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info, **how)
    return file.getvalue()
