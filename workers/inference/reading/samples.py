"""Converts samples of more than 8 bits to the 8 bits that a model takes. Knows Pillow's decoders, no paths, no models.

The highest 8 of the bits that the file declares are kept, in the same way for all images: 0 to 65535 becomes 0 to 255,
and with 12 bits 0 to 4095 does. If a file uses only a small part of the range that it declares, its picture becomes
nearly black or one grey; `LITTLE_RANGE` is the warning about that. With `stretch` the range that the picture uses
becomes 0 to 255 instead, the same range for all its colours. The darkest and the brightest thousandth of the samples do
not count for a range, so that a single hot pixel does not decide.

The chunk sBIT of a PNG is ignored: by the standard samples fill all 16 bits, whatever sBIT says about their origin
(https://www.w3.org/TR/png-3/#11sBIT).
"""

import io
import sys
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from workers.inference.reading.tiff import BITS, PHOTOMETRIC

LITTLE_RANGE = (
    "samples of more than 8 bits fill less than a sixteenth of their range; a new run with --stretch spreads them"
)
_SIXTEENTH = 256 // 16  # a sixteenth of the values that 8 bits have
_LEFT_OUT = 0.001  # share of the samples that does not count, at either end of the range

_WHITE_IS_ZERO = 0
_COUNTED_AT_ONCE = 1 << 22  # samples counted at once, so that counting takes little memory
# Last letter of Pillow's raw mode -> the letter that makes Pillow read the other byte of each sample.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

_Deep = npt.NDArray[np.uint16]


def is_deep(image: Image.Image) -> bool:
    """Whether a picture, which is opened but not loaded yet, has samples of more than 8 bits."""
    raw_mode = _raw_mode(image)
    return image.format in ("PNG", "TIFF") and (";16" in raw_mode or ";12" in raw_mode)


def as_rgb(image: Image.Image, data: bytes, *, stretch: bool) -> tuple[Image.Image, str | None]:
    """A loaded picture with samples of more than 8 bits as RGB of 8 bits, and a warning or None.

    `data` are the bytes of its file.
    """
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
    """Samples of `bits` bits, in any shape, as samples of 8 bits in the same shape, and a warning or None."""
    if stretch:
        return _stretched(values), None
    shades = (values >> (bits - 8)).astype(np.uint8)
    return shades, LITTLE_RANGE if _fills_little(shades) else None


def _declared(image: Image.Image) -> tuple[int, bool]:
    """How many bits a sample has, and whether the value 0 is white."""
    if not isinstance(image, TiffImageFile):
        return 16, False
    return int(image.tag_v2.get(BITS, (16,))[0]), image.tag_v2.get(PHOTOMETRIC) == _WHITE_IS_ZERO


def _fills_little(shades: npt.NDArray[np.uint8]) -> bool:
    low, high = _range(_counts(shades, 256))
    return high - low < _SIXTEENTH


def _stretched(samples: _Deep) -> npt.NDArray[np.uint8]:
    """The samples with the range that they use stretched to 0 to 255; the high bytes if all samples are equal."""
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
    """The lowest and the highest value of counts by value, without the few at both ends that do not count."""
    share = np.cumsum(counts) / counts.sum()
    low = np.searchsorted(share, _LEFT_OUT, side="right")
    high = np.searchsorted(share, 1 - _LEFT_OUT, side="left")
    return int(low), int(high)


def _whole_samples(data: bytes) -> _Deep:
    """The samples with all 16 bits, in the shape (height, width, 3), or (height, width) for grey.

    Pillow gives only the high byte of such samples. So the file is read twice: the second time Pillow is told that the
    bytes are in the other order, and gives the low bytes.
    """
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        raw_mode = _raw_mode(image)
    if raw_mode.startswith("LA"):  # read two bytes of grey and two of alpha as if they were four colours
        four = _read_as(data, "RGBA")
        return _joined(four[..., 0], four[..., 1])
    raw_mode = raw_mode.replace("RGBa", "RGBA")  # keep colours as the file has them, even if multiplied by alpha
    other_order = raw_mode[:-1] + _OTHER_BYTE[raw_mode[-1]]
    high, low = (_read_as(data, mode)[..., :3] for mode in (raw_mode, other_order))
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
    """Pillow's raw mode for the file's samples, such as RGB;16L.

    Source: https://pillow.readthedocs.io/en/stable/handbook/writing-your-own-image-plugin.html.
    """
    arguments = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    return str(arguments[0]) if isinstance(arguments, tuple) else arguments or ""
