"""What a file holds beside its picture - texts, colour profiles, thumbnails - is left out before it is decoded.

So that no damage and no size of it costs the picture, and nothing of it is ever unpacked. Kept is what pixels are made
of, and what says how the picture stands (EXIF and XMP), where that is whole and small. Knows PNG and JPEG, whose
readers stumble over such data; no decoder. What it does not understand stays as it is, for the decoder to judge.
"""

import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_HINT_BYTES = 1 << 20  # unpacked: what Pillow takes of a text, too
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp\0", (b"Raw profile type exif\0", b"Raw profile type APP1\0")

_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_STANDALONE = (0x01, *range(0xD0, 0xD9))
# JFIF and Adobe say how colours are meant, EXIF and XMP how the picture stands.
_JPEG_KEPT = (b"\xff\xe0", b"\xff\xee", b"\xff\xe1")

Part = tuple[int, int, bool]
"""Where a part of the file begins and ends, and whether it is kept."""


def without(data: bytes) -> bytes:
    """The file with only what its picture needs."""
    if data.startswith(_PNG):
        parts = list(_png_parts(data))
    elif data.startswith(b"\xff\xd8"):
        parts = list(_jpeg_parts(data))
    else:
        return data
    if all(kept for _, _, kept in parts):
        return data
    view = memoryview(data)
    rest = parts[-1][1]
    return b"".join([view[: parts[0][0]], *(view[begin:end] for begin, end, kept in parts if kept), view[rest:]])


def _png_parts(data: bytes) -> Iterator[Part]:
    at = len(_PNG)
    while len(data) - at >= 12:
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data) or kind == b"IEND":
            return
        yield at, end, not kind[0] & 0x20 or _stands(data[at + 4 : end], kind)  # a capital: the picture needs it
        at = end


def _stands(chunk: bytes, kind: bytes) -> bool:
    """Whether a chunk, from its kind to its checksum, is a whole and small one that says how the picture stands."""
    if kind not in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
        return False
    body, checksum = chunk[:-4], chunk[-4:]
    if len(body) > _MOST_HINT_BYTES or zlib.crc32(body).to_bytes(4, "big") != checksum:
        return False
    text = body[4:]
    if kind == b"iTXt" and text.startswith(_XMP):
        return text[len(_XMP) : len(_XMP) + 1] != b"\1" or _is_small(_xmp_text(text))
    if kind == b"zTXt" and text.startswith(_RAW_EXIF):
        return _is_small(text.partition(b"\0")[2][1:])
    return kind == b"eXIf" or (kind == b"tEXt" and text.startswith(_RAW_EXIF))


def _xmp_text(text: bytes) -> bytes:
    """What stands behind the keyword, two bytes about packing, a language and the keyword in that language."""
    return text[len(_XMP) + 2 :].split(b"\0", 2)[-1]


def _is_small(packed: bytes) -> bool:
    try:
        unpacking = zlib.decompressobj()
        return len(unpacking.decompress(packed, _MOST_HINT_BYTES + 1)) <= _MOST_HINT_BYTES and unpacking.eof
    except zlib.error:
        return False


def _jpeg_parts(data: bytes) -> Iterator[Part]:
    """The segments in front of the first scan."""
    at = 2
    while len(data) - at >= 4 and data[at] == 0xFF and data[at + 1] not in (0xFF, _JPEG_SCAN, _JPEG_END):
        marker = data[at + 1]
        end = at + 2 if marker in _JPEG_STANDALONE else at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 2 or marker == 0:
            return
        beside = 0xE0 <= marker <= 0xEF or marker == 0xFE
        yield at, end, not beside or data[at : at + 2] in _JPEG_KEPT
        at = end
