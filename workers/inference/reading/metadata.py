"""Removes metadata (texts, colour profiles, thumbnails) from the bytes of a PNG or JPEG before it is decoded.

So damaged or huge metadata never makes a picture unreadable, and is never unpacked. All that the pixels depend on is
kept, and so is the orientation (EXIF and XMP) if it is complete and small. Bytes that this module does not understand
stay as they are, for the decoder to judge. Knows PNG and JPEG, whose decoders fail on such data, but no decoder.
Sources: https://www.w3.org/TR/png-3/ (chunks) and ITU-T T.81, annex B (markers of JPEG).
"""

import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_HINT_BYTES = 1 << 20  # of an orientation's text when it is unpacked; Pillow has the same limit for texts
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp\0", (b"Raw profile type exif\0", b"Raw profile type APP1\0")

_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_STANDALONE = (0x01, *range(0xD0, 0xD9))
# JFIF and Adobe define the colours, EXIF and XMP the orientation.
_JPEG_KEPT = (b"\xff\xe0", b"\xff\xee", b"\xff\xe1")

Part = tuple[int, int, bool]
"""(first byte, byte after the last, whether it is kept) of a part of the file."""


def without_metadata(data: bytes) -> bytes:
    """The bytes of the file without parts that its picture does not need."""
    if data.startswith(_PNG):
        parts = list(_png_parts(data))
    elif data.startswith(b"\xff\xd8"):
        parts = list(_jpeg_parts(data))
    else:
        return data
    if all(kept for _, _, kept in parts):
        return data
    view = memoryview(data)
    first, last = parts[0][0], parts[-1][1]
    return b"".join([view[:first], *(view[begin:end] for begin, end, kept in parts if kept), view[last:]])


def _png_parts(data: bytes) -> Iterator[Part]:
    at = len(_PNG)
    while len(data) - at >= 12:
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data) or kind == b"IEND":
            return
        is_critical = not kind[0] & 0x20  # the picture needs a chunk whose name begins with a capital letter
        yield at, end, is_critical or _is_orientation(data[at + 4 : end], kind)
        at = end


def _is_orientation(chunk: bytes, kind: bytes) -> bool:
    """Whether a chunk, from its kind to its checksum, is complete and small and may hold the orientation."""
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
    """The text of an iTXt chunk: after the keyword, two bytes on compression, a language and a translated keyword."""
    return text[len(_XMP) + 2 :].split(b"\0", 2)[-1]


def _is_small(packed: bytes) -> bool:
    try:
        unpacking = zlib.decompressobj()
        return len(unpacking.decompress(packed, _MOST_HINT_BYTES + 1)) <= _MOST_HINT_BYTES and unpacking.eof
    except zlib.error:
        return False


def _jpeg_parts(data: bytes) -> Iterator[Part]:
    """The segments before the first scan."""
    at = 2
    while len(data) - at >= 4 and data[at] == 0xFF and data[at + 1] not in (0xFF, _JPEG_SCAN, _JPEG_END):
        marker = data[at + 1]
        end = at + 2 if marker in _JPEG_STANDALONE else at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 2 or marker == 0:
            return
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE  # APPn or a comment
        yield at, end, not is_metadata or data[at : at + 2] in _JPEG_KEPT
        at = end
