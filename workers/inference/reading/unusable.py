"""Says why the content of a file is no image that can be used: another format, cut off, or damaged. Decodes nothing."""

import struct

from workers.errors import ErrorClass
from workers.inference.reading.formats import (
    FORMATS,
    HEAD_BYTES,
    HEIC,
    HEIC_EXTRA,
    VIDEO,
    image_format,
    other_format,
)
from workers.inference.reading.rules import UnreadableImage

CONVERT = f"is not opened; convert to one of {', '.join(FORMATS)}"
_CURES = {
    HEIC: f"is opened by an extra: {HEIC_EXTRA} where the workers run, or convert it to one of {', '.join(FORMATS)}",
    VIDEO: "is no image; save the frames that you want as images",
}
_GIT_LFS = b"version https://git-lfs.github.com/"  # a checkout without Git LFS has such files for its large ones


def unidentified(data: bytes) -> UnreadableImage:
    """The error for a file that no decoder took: another format, a damaged header, or no image."""
    head = data[:HEAD_BYTES]
    if (name := other_format(head)) is not None:
        return UnreadableImage(ErrorClass.UNSUPPORTED, f"{name} {_CURES.get(name, CONVERT)}")
    if image_format(head) is not None:
        return UnreadableImage(ErrorClass.TRUNCATED, "the file's header is cut or damaged")
    said = "the file is empty" if not data else "the content is no image"
    if head.startswith(_GIT_LFS):
        said = "the file only names one that Git LFS keeps; run git lfs pull"
    return UnreadableImage(ErrorClass.NOT_AN_IMAGE, said)


def tiff_with(kind: str) -> str:
    """The sentence for a TIFF that is refused because it holds this."""
    return f"TIFF with {kind}" if "; " in kind else f"TIFF with {kind}, {CONVERT}"


def undecodable(data: bytes, error: Exception) -> UnreadableImage:
    """The error for a file at whose pixels a decoder failed with `error`."""
    said = " ".join((f"{error}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}").split())
    # Pillow's messages about texts and colour profiles that unpack to more than it allows.
    if "data too large" in said.lower() or "too much memory" in said.lower():
        return UnreadableImage(ErrorClass.TOO_LARGE, said)
    if "truncated" in said.lower() or "not enough image data" in said.lower() or _ends_early(data):
        return UnreadableImage(ErrorClass.TRUNCATED, f"the file ends before its picture does ({said})")
    return UnreadableImage(ErrorClass.DECODER_CRASH, f"cannot be decoded ({said})")


def _ends_early(data: bytes) -> bool:
    """Whether the mark of the format's end is missing. Looks near the end only, as a thumbnail has such a mark, too."""
    tail = data[-4096:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int(struct.unpack_from("<I", data, 4)[0])
    return False


def _boxes_end(data: bytes) -> int:
    """The byte after the last box of a file of the MP4 family, as its boxes say (ISO/IEC 14496-12)."""
    at = 0
    while len(data) - at >= 16:
        size, _, large = struct.unpack_from(">I4sQ", data, at)
        size = large if size == 1 else size
        if size < 8:  # size 0: the box reaches to the end of the file
            return len(data)
        at += size
    return at
