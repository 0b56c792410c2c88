"""How much a decoder would have to unpack for a picture, by the file's bytes, before any of it is. Decodes nothing.

What a header calls the picture's size is not what decoders work on: a TIFF's tiles may be larger than its picture, and
a JPEG may paint its picture again with every scan. Both are bounded here by what honest files need:

- the tiles or strips of a TIFF hold at most four times its picture (or one tile of 4096 x 4096), at most 8 bytes for
  each pixel that a picture may have, and are not more than 2**19;
- a JPEG has at most 100 scans (an encoder's own are 10 or so; libtiff draws its line there too), and less where they
  paint more than 20 of the largest pictures.
"""

import re
from math import ceil

from workers.inference.tiff import (
    BITS,
    PLANAR,
    ROWS_PER_STRIP,
    SAMPLES,
    SEPARATE,
    STRIPS,
    TILE_LENGTH,
    TILE_WIDTH,
    TILES,
    Directory,
)

_SPARE = 4  # times the picture
_ORDINARY_TILE = 4096 * 4096
_BYTES_A_PIXEL = 8  # four samples of 16 bits
_MOST_PIECES = 1 << 19

MOST_SCANS = 100
_MOST_PAINTED = 20  # times the largest picture
# Neither data (FF 00), nor where a decoder may restart (FF D0 .. D7), nor a byte that only fills (FF FF). Begins with
# one byte alone, so that the search jumps from one to the next: a file may hold a million of them in a row.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SCAN, _END = 0xDA, 0xD9
_STANDALONE = (0x01, 0xD8)


def too_much_tiff(picture: Directory, max_pixels: int) -> str | None:
    """Why a TIFF's picture holds more than it should, with the numbers; None if it does not."""
    width, length = picture.size
    tiled = TILES in picture.tags
    across = picture.first(TILE_WIDTH) if tiled else width
    down = picture.first(TILE_LENGTH) if tiled else min(picture.first(ROWS_PER_STRIP, length), length)
    if not (width and length and across and down):
        return None
    samples = max(1, picture.first(SAMPLES, 1))
    planes = samples if picture.first(PLANAR, 1) == SEPARATE else 1
    pieces = ceil(width / across) * ceil(length / down)
    pixels = pieces * across * down
    kind = "tiles" if tiled else "strips"
    said = f"{width} x {length} pixels in {kind} of {across} x {down}"
    stored = max(pieces * planes, picture.counts.get(TILES if tiled else STRIPS, 0))
    if stored > _MOST_PIECES:
        return f"{said}: {stored:,} of them, over the limit of {_MOST_PIECES:,}"
    if pixels > max(_SPARE * width * length, _ORDINARY_TILE):
        return f"{said}: {pixels:,} pixels to unpack for a picture of {width * length:,}"
    unpacked = pixels * samples * max(picture.tags.get(BITS, (1,))) // 8
    most = _BYTES_A_PIXEL * max(max_pixels, _ORDINARY_TILE)
    if unpacked > most:
        return f"{said}: {unpacked:,} bytes to unpack, over the limit of {most:,}"
    return None


def too_much_jpeg(data: bytes, pixels: int, max_pixels: int) -> str | None:
    """Why a JPEG paints its picture too often; None if it does not."""
    most = max(1, min(MOST_SCANS, _MOST_PAINTED * max_pixels // max(1, pixels)))
    found = scans(data, most)
    return f"more than {most} scans, each of which paints the picture again" if found > most else None


def scans(data: bytes, most: int) -> int:
    """How many scans a JPEG has; counts to one more than `most`."""
    count, at = 0, 2
    while count <= most and (found := _MARKER.search(data, at)):
        marker = data[found.end() - 1]
        if marker == _END:
            break
        count += marker == _SCAN
        at = found.end()
        if marker not in _STANDALONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return count
