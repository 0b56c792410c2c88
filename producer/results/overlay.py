"""Draws the masks and boxes of an image over its picture, each in a colour of its own. Opens no file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from db.values import FoundInstance
from db.views.results import ExportedImage
from db.views.run_views import RunView

COLOURS = (
    (64, 156, 255),
    (255, 122, 69),
    (74, 214, 130),
    (245, 83, 142),
    (255, 205, 64),
    (158, 124, 255),
    (54, 211, 224),
    (176, 217, 68),
    (240, 110, 230),
    (255, 160, 140),
)
LIGHT_LINE, DARK_LINE = (255, 255, 255), (16, 16, 18)  # side by side around each mask
LINE_SHARE = 400  # a line is 1/400 of the picture's width wide
FILL = 0.42  # share of the mask's colour in the colour of a covered pixel

Colour = tuple[int, int, int]
Pixels = NDArray[np.float32]


def overlay(picture: Image.Image, view: RunView, image: ExportedImage) -> Image.Image:
    """Draw masks with their outlines, the largest first so that small ones stay visible, then the boxes."""
    coloured = [
        (instance, _instance_colour(view, result.class_id, rank))
        for result in image.results
        for rank, instance in enumerate(result.instances)
    ]
    coloured.sort(key=lambda pair: -pair[0].area)
    pixels = np.array(picture, dtype=np.float32)
    for instance, colour in coloured:
        _blend(pixels, _coverage(image, instance, picture.size), colour)
    shown = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(shown)
    across, down = shown.width / (image.width or 1), shown.height / (image.height or 1)
    for instance, colour in coloured:
        x1, y1, x2, y2 = instance.box
        left, top = max(0, round(x1 * across)), max(0, round(y1 * down))
        right, bottom = min(shown.width, round(x2 * across)) - 1, min(shown.height, round(y2 * down)) - 1
        right, bottom = max(left, right), max(top, bottom)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=DARK_LINE)
        draw.rectangle((left, top, right, bottom), outline=colour)
    return shown


def _coverage(image: ExportedImage, instance: FoundInstance, size: tuple[int, int]) -> Pixels:
    """Which share of each shown pixel the mask covers: height x width of `size`, from 0 to 1."""
    rle = {"size": [image.height, image.width], "counts": instance.rle}
    mask: NDArray[Any] = coco_mask.decode(rle)
    step = max(1, min(mask.shape[0] // (2 * size[1]), mask.shape[1] // (2 * size[0])))
    thinned = np.ascontiguousarray(mask[::step, ::step]) * np.uint8(255)
    scaled = Image.fromarray(thinned).resize(size, Image.Resampling.BOX)
    return np.asarray(scaled, dtype=np.float32) / np.float32(255)


def _blend(pixels: Pixels, coverage: Pixels, colour: Colour) -> None:
    """Tint the covered part of `pixels` (height x width x 3, 0 to 255) in place, and draw the outline of the mask.

    The outline is, from outside to inside, a dark line, a light line, and a line of the mask's colour that is twice as
    wide. One of them always differs from the colours of the picture.
    """
    mask, line = coverage > 0.5, max(1, round(pixels.shape[1] / LINE_SHARE))
    around, without_light, within = _grown(mask, line), ~_grown(~mask, line), ~_grown(~mask, 3 * line)
    pixels += (np.array(colour, dtype=np.float32) - pixels) * (coverage * np.float32(FILL))[..., None]
    pixels[without_light & ~within] = colour
    pixels[mask & ~without_light] = LIGHT_LINE
    pixels[around & ~mask] = DARK_LINE


def _grown(area: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The area and all pixels within `by` steps of it. Pixels at the border of the picture continue beyond it."""
    for _ in range(by):
        padded = np.pad(area, 1, mode="edge")
        area = area | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return area


def class_colour(view: RunView, class_id: int) -> Colour:
    return view.classes[class_id].colour or COLOURS[list(view.classes).index(class_id) % len(COLOURS)]


def _instance_colour(view: RunView, class_id: int, rank: int) -> Colour:
    """The colour of an instance: by its class, in three shades by rank; if there is one class only, by its rank."""
    if len(view.classes) == 1 and view.classes[class_id].colour is None:
        return COLOURS[rank % len(COLOURS)]
    red, green, blue = class_colour(view, class_id)
    shade = (1.0, 0.78, 0.6)[rank % 3]
    return round(red * shade), round(green * shade), round(blue * shade)
