"""Bounds the work of a decoder by the bytes of a file, before it is decoded. Decodes nothing.

The size of the picture in the header does not bound that work: the tiles of a TIFF may be larger than its picture, and
each scan of a JPEG paints the whole picture again. The bounds are well above what normal files need:

- The tiles or strips of a TIFF have together at most four times the pixels of its picture (or those of one tile of
  4096 x 4096), at most 8 bytes for each pixel that a picture may have, and there are at most 2**19 of them.
- A JPEG has at most 100 scans (encoders make about 10; libtiff has the same limit), and fewer if these would paint more
  pixels than 20 of the largest pictures have.

Sources: TIFF 6.0 specification (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf) and ITU-T T.81 (JPEG).
"""

import re
from math import ceil

from workers.inference.reading.tiff import (
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

_SPARE = 4  # most pixels in tiles for each pixel of the picture
_ORDINARY_TILE = 4096 * 4096  # pixels
_BYTES_A_PIXEL = 8  # four samples of 16 bits
_MOST_PIECES = 1 << 19  # tiles or strips

MOST_SCANS = 100
_MOST_PAINTED = 20  # most pixels that all scans paint, in pixels of the largest picture
# A marker: neither data (FF 00), nor a restart marker (FF D0 to FF D7), nor a fill byte (FF FF). The pattern begins
# with a single byte, so that the search jumps from one FF to the next: a file may have a million of them in a row.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SCAN, _END = 0xDA, 0xD9
_STANDALONE = (0x01, 0xD8)


def too_much_tiff(picture: Directory, max_pixels: int) -> str | None:
    """Why a TIFF exceeds the bounds, in words with numbers; None if it does not. `max_pixels` of a picture."""
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
    """Why a JPEG of `pixels` pixels has too many scans, in words; None if it does not. `max_pixels` of a picture."""
    most = max(1, min(MOST_SCANS, _MOST_PAINTED * max_pixels // max(1, pixels)))
    found = scans(data, most)
    return f"more than {most} scans, each of which paints the picture again" if found > most else None


def scans(data: bytes, most: int) -> int:
    """How many scans a JPEG has. Stops counting at one more than `most`."""
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
