"""Samples of more than 8 bits, brought to the 8 that a model takes. Knows Pillow's decoders, no paths and no models.

The highest 8 of the bits that the file declares are kept, for every image alike: 0..65535 becomes 0..255, and of 12
bits 0..4095 does. A file that fills only a small part of what it declares is nearly black, or of one grey, by that
rule, which `LITTLE_RANGE` says. Stretched, the picture's own range becomes 0..255 instead, one range for all its
colours. The darkest and the brightest thousandth of the samples are left out of a range, so that no hot pixel decides.

A PNG's sBIT declares nothing here: by the standard samples fill 16 bits, however many of them meant something once.
"""

import io
import sys
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from workers.inference.tiff import BITS, LENGTH, PHOTOMETRIC, WIDTH

LITTLE_RANGE = (
    "samples of more than 8 bits fill less than a sixteenth of their range; a new run with --stretch spreads them"
)
_SIXTEENTH = 256 // 16  # of the values that 8 bits have
_LEFT_OUT = 0.001  # of the samples, at either end

_WHITE_IS_ZERO = 0
_PLANAR, _SEPARATE = 284, 2
_COUNTED_AT_ONCE = 1 << 22  # samples, so that counting takes little memory
# What reads the other byte of a sample.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

_Deep = npt.NDArray[np.uint16]


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that is opened, but not loaded yet, has samples of more than 8 bits."""
    raw_mode = _raw_mode(image)
    return image.format in ("PNG", "TIFF") and (";16" in raw_mode or ";12" in raw_mode or in_planes(image))


def prepare(image: Image.Image) -> None:
    """Let libtiff read uncompressed planes of 16 bits, which Pillow's own reader takes for planes of 8 bits."""
    if isinstance(image, TiffImageFile) and in_planes(image) and not image.use_load_libtiff:
        image.use_load_libtiff = True
        whole = (0, 0, image.tag_v2[WIDTH], image.tag_v2[LENGTH])
        image.tile = [ImageFile._Tile("libtiff", whole, 0, (f"{image.mode};16N", False, image.tag_v2.offset))]


def in_planes(image: Image.Image) -> bool:
    """Whether each colour is a picture of its own, of 16 bits. Such samples cannot be had whole, nor be stretched."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    return tags.get(_PLANAR, 1) == _SEPARATE and len(image.getbands()) > 1 and tags.get(BITS, (1,))[0] == 16


def as_rgb(image: Image.Image, data: bytes, *, stretch: bool) -> tuple[Image.Image, str | None]:
    """A loaded picture with deep samples, in the file's `data`, as RGB of 8 bits; and what is to be warned of."""
    bits, inverted = _declared(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.uint16)
        if inverted:
            grey = np.uint16((1 << bits) - 1) - grey
        shades = _stretched(grey) if stretch else (grey >> (bits - 8)).astype(np.uint8)
        rgb = Image.fromarray(shades).convert("RGB")
    elif stretch and image.mode in ("RGB", "RGBA"):
        rgb = Image.fromarray(_stretched(_whole_samples(data))).convert("RGB")
    else:
        stretch, rgb = False, image.convert("RGB")
    return rgb, None if stretch or not _fills_little(rgb) else LITTLE_RANGE


def _declared(image: Image.Image) -> tuple[int, bool]:
    """How many bits a sample has, and whether 0 is white."""
    if not isinstance(image, TiffImageFile):
        return 16, False
    return int(image.tag_v2.get(BITS, (16,))[0]), image.tag_v2.get(PHOTOMETRIC) == _WHITE_IS_ZERO


def _fills_little(rgb: Image.Image) -> bool:
    low, high = _range(np.array(rgb.histogram()).reshape(3, 256).sum(axis=0))
    return high - low < _SIXTEENTH


def _stretched(samples: _Deep) -> npt.NDArray[np.uint8]:
    """Each sample of the picture's range as 0..255. Of a picture without a range the high bytes."""
    counts = np.zeros(1 << 16, np.int64)
    flat = samples.reshape(-1)
    for start in range(0, len(flat), _COUNTED_AT_ONCE):
        counts += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=1 << 16)
    low, high = _range(counts)
    values = np.arange(1 << 16)
    shades = values >> 8 if low == high else ((values - low) * 255 / (high - low)).clip(0, 255).round()
    return shades.astype(np.uint8)[samples]


def _range(counts: npt.NDArray[np.integer[Any]]) -> tuple[int, int]:
    """The lowest and the highest value, of counts by value, without the few that are left out."""
    share = np.cumsum(counts) / counts.sum()
    low = np.searchsorted(share, _LEFT_OUT, side="right")
    high = np.searchsorted(share, 1 - _LEFT_OUT, side="left")
    return int(low), int(high)


def _whole_samples(data: bytes) -> _Deep:
    """The colours, or the grey, as 16 bits in the shape (height, width, 3 or nothing). Pillow gives only high bytes
    of such samples, but the other byte when it is told that the file has them the other way round."""
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        kind = _raw_mode(image)
    if kind.startswith("LA"):  # two bytes of grey and two of alpha, read as four colours
        four = _read_as(data, "RGBA")
        return _joined(four[..., 0], four[..., 1])
    kind = kind.replace("RGBa", "RGBA")  # colours as the file has them, also if they are dimmed by its alpha
    high, low = (_read_as(data, one)[..., :3] for one in (kind, kind[:-1] + _OTHER_BYTE[kind[-1]]))
    return _joined(high, low)


def _joined(high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8]) -> _Deep:
    return cast(_Deep, high.astype(np.uint16) * 256 + low)


def _read_as(data: bytes, raw_mode: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        tiles = []
        for tile in image.tile:
            others = tile.args[1:] if isinstance(tile.args, tuple) else None
            tiles.append(tile._replace(args=raw_mode if others is None else (raw_mode, *others)))
        image.tile = tiles
        return np.array(image)


def _raw_mode(image: Image.Image) -> str:
    """How a decoder is told to read the file's samples, such as RGB;16L."""
    arguments = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    return str(arguments[0]) if isinstance(arguments, tuple) else arguments or ""
