"""Image files put together by hand, for what no writer would write."""

import struct
import zlib
from functools import cache

JPEG_LIMIT = 65_500  # pixels a side, of libjpeg


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, pixels: bytes | None = None) -> bytes:
    """100 x 100 and black, with more chunks before the pixels."""
    return b"".join(
        [
            png_header(100, 100),
            *chunks,
            png_chunk(b"IDAT", zlib.compress(bytes(100 * 301)) if pixels is None else pixels),
            png_chunk(b"IEND", b""),
        ]
    )


@cache
def packed_zeros(megabytes: int) -> bytes:
    """So much of nothing, a thousandth of that in size."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1_000_000)) for _ in range(megabytes)]) + packer.flush()


def jpeg_of_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header."""
    frame = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:frame] + struct.pack(">HH", height, width) + jpeg[frame + 4 :]


def gif(width: int, height: int, *blocks: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"".join(blocks) + b";"


def gif_frame(left: int, top: int, width: int, height: int) -> bytes:
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\2\2\x4c\1\0"


def bmp(width: int, height: int, bits: int = 24, packing: int = 0, data: bytes = b"") -> bytes:
    palette = bytes(1024) if bits == 8 else b""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + data


def webp_canvas(width: int, height: int) -> bytes:
    """An animation's header without a frame."""
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


SHORTS, LONGS = 3, 4
Tag = tuple[int, int, int, bytes | int]


def tiff(width: int, height: int, *other: Tag, packing: int = 1, strip: tuple[int, int] | None = None) -> bytes:
    """RGB in one strip of zeros; `other` tags replace those of the same number. `strip`: its offset and length.

    Data of tags are put behind them; a number is taken as it is, also where it should say where the data are.
    """
    offset, length = strip or (8, width * height * 3)
    own: list[Tag] = [
        (256, LONGS, 1, width),
        (257, LONGS, 1, height),
        (258, SHORTS, 3, struct.pack("<HHH", 8, 8, 8)),
        (259, SHORTS, 1, packing),
        (262, SHORTS, 1, 2),
        (273, LONGS, 1, offset),
        (277, SHORTS, 1, 3),
        (278, LONGS, 1, height),
        (279, LONGS, 1, length & 0xFFFFFFFF),
    ]
    tags = {tag[0]: tag for tag in [*own, *other]}
    entries, data, behind = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for number, kind, count, value in sorted(tags.values()):
        if isinstance(value, bytes):
            entries += struct.pack("<HHII", number, kind, count, behind + len(data))
            data += value
        else:
            entries += struct.pack("<HHII", number, kind, count, value)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data + bytes(31_000)
