"""Opens TIFFs that Pillow refuses, with tifffile: samples of 8 to 16 bits, stored in any way. Knows no paths.

The meaning of bands, for files that do not define it: one band is grey; of two bands the first is grey and the second
alpha; of three to five bands the first three are red, green and blue. Other bands (alpha, near infrared) are dropped.
Float, complex, signed and wider samples have no agreed range and are refused, with a message that names them.

Only files that `bounds` has accepted are opened here.
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tifffile

from workers.inference.reading import bounds, samples
from workers.inference.reading.tiff import (
    BITS,
    COMPRESSION,
    FORMATS,
    PHOTOMETRIC,
    PLANAR,
    SAMPLE_FORMAT,
    SAMPLES,
    SEPARATE,
    Directory,
)

_UNSIGNED, _UNDEFINED = 1, 4
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PHOTOMETRIC = {3: "palette", 4: "mask", 5: "inks", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab"}
_JPEG = 7
_OPENED = {1, 5, _JPEG, 8, 32773, 32946, 34925, 50000}  # none, LZW, JPEG, deflate, PackBits, deflate, LZMA, ZSTD
# Compressions that Pillow's libtiff does not have. They are not opened here either, since their decoders unpack as much
# as the file demands.
_COMPRESSION = {
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34661: "JBIG",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
    22610: "JPEG XR",
    34934: "JPEG XR",
}
_MOST_BANDS = 5

RGB = npt.NDArray[np.uint8]


def refused(picture: Directory) -> str | None:
    """Why neither Pillow nor this module opens a picture, such as `3 x 32 bits, float: ...`; None if one may."""
    formats = set(picture.tags.get(SAMPLE_FORMAT, (_UNSIGNED,)))
    if formats - {_UNSIGNED, _UNDEFINED} or max(picture.tags.get(BITS, (1,))) > 16:
        return f"{told(picture)}: such samples have no agreed range; convert to 8 or 16 bits, unsigned"
    if picture.first(COMPRESSION, 1) in _COMPRESSION:
        return told(picture)
    return None


def unfit(picture: Directory) -> str | None:
    """What a picture is, in words, if this module cannot open it; None if it can."""
    count, bits = picture.first(SAMPLES, 1), set(picture.tags.get(BITS, (1,)))
    photometric = picture.first(PHOTOMETRIC)
    fits = (
        len(bits) == 1
        and 8 <= min(bits) <= 16
        and picture.first(COMPRESSION, 1) in _OPENED
        and 1 <= count <= _MOST_BANDS
        and (photometric == _BLACK_IS_ZERO or photometric == (_RGB if count > 2 else _WHITE_IS_ZERO))
    )
    return None if fits else told(picture)


def told(picture: Directory) -> str:
    """A picture's samples and compression in words, such as `3 x 10 bits, unsigned, compressed by LERC`."""
    format_ = FORMATS.get(picture.first(SAMPLE_FORMAT, 1), "unknown")
    parts = [
        f"{picture.first(SAMPLES, 1)} x {'/'.join(map(str, _distinct(picture.tags.get(BITS, (1,)))))} bits",
        format_,
    ]
    if name := _PHOTOMETRIC.get(picture.first(PHOTOMETRIC)):
        parts.append(name)
    compression = picture.first(COMPRESSION, 1)
    if compression not in _OPENED and compression > 4:
        parts.append(f"compressed by {_COMPRESSION.get(compression, f'method {compression}')}")
    return ", ".join(parts)


def comes_first(picture: Directory) -> bool:
    """Whether this module must open a picture although Pillow can, because Pillow would give wrong pixels.

    If three or more bands are not declared as colours, Pillow may give the first band as grey. If bands of more than 8
    bits are stored as separate planes, Pillow gives wrong values.
    """
    count = picture.first(SAMPLES, 1)
    unnamed = count > 2 and picture.first(PHOTOMETRIC) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    return unnamed or (picture.first(PLANAR, 1) == SEPARATE and count > 1 and picture.first(BITS, 1) > 8)


def read(data: bytes, picture: Directory, *, stretch: bool) -> tuple[RGB, str | None]:
    """The pixels (height, width, 3) of a TIFF whose first directory is `picture`, and a warning or None.

    The axes are those of the file. Raises the errors of tifffile, and `ValueError` if data are missing.
    """
    count, bits, (width, height) = picture.first(SAMPLES, 1), picture.first(BITS), picture.size
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        _check_whole(page.dataoffsets, page.databytecounts, len(data))
        if picture.first(COMPRESSION, 1) == _JPEG:
            _check_scans(data, page.dataoffsets, page.databytecounts)
        values = np.asarray(page.asarray(maxworkers=1))
    if picture.first(PLANAR, 1) == SEPARATE:
        values = np.moveaxis(values.reshape(count, height, width), 0, 2)
    values = values.reshape(height, width, count)[..., : 3 if count > 2 else 1]
    if picture.first(PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = np.array((1 << bits) - 1, values.dtype) - values
    shades, warning = (values, None) if bits == 8 else samples.eight_bits(values, bits, stretch=stretch)
    return np.ascontiguousarray(np.broadcast_to(shades, (height, width, 3)), dtype=np.uint8), warning


def _check_whole(offsets: Sequence[int], sizes: Sequence[int], end: int) -> None:
    """Raise `ValueError` if a strip or tile is missing, as tifffile would make it black."""
    for offset, size in zip(offsets, sizes, strict=True):
        if size <= 0 or offset <= 0 or offset + size > end:
            raise ValueError("a strip or tile of the picture is truncated")


def _check_scans(data: bytes, offsets: Sequence[int], sizes: Sequence[int]) -> None:
    for offset, size in zip(offsets, sizes, strict=True):
        if bounds.scans(data[offset : offset + size], bounds.MOST_SCANS) > bounds.MOST_SCANS:
            raise ValueError(f"a tile has more than {bounds.MOST_SCANS} scans: data too large")


def _distinct(values: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(values))
