"""TIFFs that Pillow declines, through tifffile: samples of 8 to 16 bits, whatever way they are stored.

The rule of bands, for files that say less than a picture needs: one band is grey; of two the first is grey, and the
other one alpha; of three to five the first three are red, green and blue. What else there is (alpha, near infrared) is
dropped. Floats, complex, signed and wider samples have no agreed range and are refused, told as what they are.

Knows no paths. Nothing is opened here that `bounds` has not found harmless.
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tifffile

from workers.inference import bounds, samples
from workers.inference.tiff import (
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
# What neither Pillow's libtiff has, nor is opened here: its decoders unpack what the file says they should.
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
    """What a whole picture is that nobody here opens, such as `3 x 32 bits, float`; None if it is none of these."""
    formats = set(picture.tags.get(SAMPLE_FORMAT, (_UNSIGNED,)))
    if formats - {_UNSIGNED, _UNDEFINED} or max(picture.tags.get(BITS, (1,))) > 16:
        return f"{told(picture)}: such samples have no agreed range; convert to 8 or 16 bits, unsigned"
    if picture.first(COMPRESSION, 1) in _COMPRESSION:
        return told(picture)
    return None


def unfit(picture: Directory) -> str | None:
    """The same of one that Pillow does not open either."""
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
    """`3 x 10 bits, unsigned, compressed by LERC`."""
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
    """Whether Pillow gives less of a picture than is there: of colours that do not call themselves so it may give the
    first as grey, and of planes of more than 8 bits wrong ones."""
    count = picture.first(SAMPLES, 1)
    unnamed = count > 2 and picture.first(PHOTOMETRIC) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    return unnamed or (picture.first(PLANAR, 1) == SEPARATE and count > 1 and picture.first(BITS, 1) > 8)


def read(data: bytes, picture: Directory, *, stretch: bool) -> tuple[RGB, str | None]:
    """The pixels, in the file's own axes, of a TIFF whose first directory is a `picture` that fits; and what is to be
    warned of. Raises whatever tifffile does, and `ValueError` where data are missing."""
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
    """tifffile takes pieces that are not there for black ones."""
    for offset, size in zip(offsets, sizes, strict=True):
        if size <= 0 or offset <= 0 or offset + size > end:
            raise ValueError("a strip or tile of the picture is truncated")


def _check_scans(data: bytes, offsets: Sequence[int], sizes: Sequence[int]) -> None:
    for offset, size in zip(offsets, sizes, strict=True):
        if bounds.scans(data[offset : offset + size], bounds.MOST_SCANS) > bounds.MOST_SCANS:
            raise ValueError(f"a tile has more than {bounds.MOST_SCANS} scans: data too large")


def _distinct(values: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(values))
