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

from workers.inference.tiff import BITS, PHOTOMETRIC

LITTLE_RANGE = (
    "samples of more than 8 bits fill less than a sixteenth of their range; a new run with --stretch spreads them"
)
_SIXTEENTH = 256 // 16  # of the values that 8 bits have
_LEFT_OUT = 0.001  # of the samples, at either end

_WHITE_IS_ZERO = 0
_COUNTED_AT_ONCE = 1 << 22  # samples, so that counting takes little memory
# What reads the other byte of a sample.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

_Deep = npt.NDArray[np.uint16]


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that is opened, but not loaded yet, has samples of more than 8 bits."""
    raw_mode = _raw_mode(image)
    return image.format in ("PNG", "TIFF") and (";16" in raw_mode or ";12" in raw_mode)


def as_rgb(image: Image.Image, data: bytes, *, stretch: bool) -> tuple[Image.Image, str | None]:
    """A loaded picture with deep samples, in the file's `data`, as RGB of 8 bits; and what is to be warned of."""
    bits, inverted = _declared(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.uint16)
        if inverted:
            grey = np.uint16((1 << bits) - 1) - grey
        shades, warning = eight_bits(grey, bits, stretch=stretch)
        return Image.fromarray(shades).convert("RGB"), warning
    if stretch and image.mode in ("RGB", "RGBA"):
        return Image.fromarray(_stretched(_whole_samples(data))).convert("RGB"), None
    rgb = image.convert("RGB")
    return rgb, LITTLE_RANGE if _fills_little(np.asarray(rgb)) else None


def eight_bits(values: _Deep, bits: int, *, stretch: bool) -> tuple[npt.NDArray[np.uint8], str | None]:
    """Samples of so many `bits`, in any shape, as 8; and what is to be warned of."""
    if stretch:
        return _stretched(values), None
    shades = (values >> (bits - 8)).astype(np.uint8)
    return shades, LITTLE_RANGE if _fills_little(shades) else None


def _declared(image: Image.Image) -> tuple[int, bool]:
    """How many bits a sample has, and whether 0 is white."""
    if not isinstance(image, TiffImageFile):
        return 16, False
    return int(image.tag_v2.get(BITS, (16,))[0]), image.tag_v2.get(PHOTOMETRIC) == _WHITE_IS_ZERO


def _fills_little(shades: npt.NDArray[np.uint8]) -> bool:
    low, high = _range(_counts(shades, 256))
    return high - low < _SIXTEENTH


def _stretched(samples: _Deep) -> npt.NDArray[np.uint8]:
    """Each sample of the picture's range as 0..255. Of a picture without a range the high bytes."""
    low, high = _range(_counts(samples, 1 << 16))
    values = np.arange(1 << 16)
    shades = values >> 8 if low == high else ((values - low) * 255 / (high - low)).clip(0, 255).round()
    return shades.astype(np.uint8)[samples]


def _counts(samples: npt.NDArray[Any], values: int) -> npt.NDArray[np.integer[Any]]:
    counts = np.zeros(values, np.int64)
    flat = samples.reshape(-1)
    for start in range(0, len(flat), _COUNTED_AT_ONCE):
        counts += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=values)
    return counts


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
