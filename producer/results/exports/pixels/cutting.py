"""Cuts what was found out of an image. Knows pixels and reads image files, but no runs. Helper processes import it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageFilter

from producer.results.exports.pixels.drawing import Pixels, as_png, edited, union
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image

BLUR = "blur"  # value of --background
BLUR_SHARE = 0.02  # standard deviation of the blur, as a share of the longer side
COMPRESSION = 3  # of PNG: photographs gain little from more, which takes twice the time


@dataclass(frozen=True)
class Cut:
    """How things are cut out."""

    crop: bool = False  # to the box around the mask
    background: str | None = None  # blur, or a colour as Pillow knows it; None: transparent
    edits: Mapping[str, Any] = field(default_factory=dict)  # of the mask, see `drawing.edited`


def cut_out(
    place: str,
    rules: ReadRules,
    was: tuple[int, int, int | None],
    rles: Sequence[bytes],
    cut: Cut,
    texts: Sequence[bytes],
) -> bytes | None:
    """The image at `place` where the masks are, as PNG; None if it cannot be read, or has been replaced.

    `was` is (height, width, bytes of the file) when it was segmented; the bytes may be unknown. `rles` are
    compressed COCO RLE counts. Without a background the PNG has RGB as in the image and straight alpha, the mask;
    where alpha is 0, RGB is 0, too, so that nothing of the rest can be seen. With a background there is no alpha.
    """
    try:
        image = read_image(place, rules)
    except UnreadableImage:
        return None
    rgb, size = image.pixels, was[:2]
    if rgb.shape[:2] != size or was[2] not in (None, image.file.size):
        return None
    alpha = edited(union(*size, rles), **cut.edits)
    if cut.crop:
        rows, columns = _extent(alpha.any(axis=1)), _extent(alpha.any(axis=0))
        rgb, alpha = rgb[rows, columns], alpha[rows, columns]
    return as_png(_picture(rgb, alpha, cut.background), texts, compress_level=COMPRESSION)


def colour_fault(background: str) -> str | None:
    """What is wrong with a value of --background, in words; None if nothing is."""
    try:
        if background != BLUR and len(ImageColor.getrgb(background)) != 3:
            return "a background has no alpha; leave it out for a transparent one"
    except ValueError:
        return "give blur, a name such as white, or a colour such as #00ff00"
    return None


def _picture(rgb: Pixels, alpha: Pixels, background: str | None) -> Image.Image:
    if background is None:
        return Image.fromarray(np.dstack([np.where(alpha[..., None] > 0, rgb, np.uint8(0)), alpha]), "RGBA")
    image = Image.fromarray(rgb)
    if background == BLUR:
        behind = image.filter(ImageFilter.GaussianBlur(BLUR_SHARE * max(image.size)))
    else:
        behind = Image.new("RGB", image.size, ImageColor.getrgb(background))
    return Image.composite(image, behind, Image.fromarray(alpha))


def _extent(used: npt.ArrayLike) -> slice:
    """From the first to the last true value; everything if there is none."""
    places = np.flatnonzero(used)
    return slice(places[0], places[-1] + 1) if len(places) else slice(None)
