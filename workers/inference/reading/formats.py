"""Recognises image formats, those that we open and others, by a file's first bytes and its suffix. Opens no file."""

import importlib.util

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
HEIC = "HEIC"
HEIC_IS_OPENED = importlib.util.find_spec("pillow_heif") is not None  # only found here; workers import it
HEIC_EXTRA = "pip install 'sam3-queue[heic]'"
VIDEO = "video"
# Suffixes of camera raw files that begin like a TIFF whose first picture is a small preview.
CAMERA_RAW_SUFFIXES = (
    *(".dng", ".nef", ".nrw", ".cr2", ".arw", ".srf", ".sr2", ".pef", ".srw", ".3fr", ".fff", ".erf", ".kdc", ".dcr"),
    *(".mef", ".mos", ".iiq", ".rwl", ".gpr"),
)
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"),
    *((".heic", ".heif", ".hif") if HEIC_IS_OPENED else ()),
)
HEAD_BYTES = 64  # so many bytes of a file's start are enough for `image_format` and `other_format`

_OURS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)  # checked, too, since a text may begin with "BM"

# Marks of camera raw files that begin like a TIFF: (offset, bytes). Other such files are recognised only by their tags,
# see `workers.inference.reading.tiff`.
_RAW_LIKE_TIFF = ((8, b"CR\2"), (8, b"IIIITwaR"), (8, b"MMMMRawT"))
# First bytes of formats that we do not open: (offset, bytes, name).
_OTHERS = (
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"SIMPLE  =", "FITS"),
    *((offset, magic, "camera raw") for offset, magic in _RAW_LIKE_TIFF),
    (0, b"IIRO", "camera raw"),
    (0, b"IIRS", "camera raw"),
    (0, b"MMOR", "camera raw"),
    (0, b"\0MRM", "camera raw"),
    (6, b"HEAPCCDR", "camera raw"),
    (0, b"IIU\0", "camera raw"),
    (0, b"FUJIFILMCCD-RAW", "camera raw"),
    (0, b"FOVb", "camera raw"),
)
# Brands of the MP4 family (ISO/IEC 14496-12, box `ftyp`). A file names its own brand, and others that it conforms to.
_BRANDS = (
    ((b"avif", b"avis"), "AVIF"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), HEIC),
    ((b"crx ",), "camera raw"),
    ((b"jp2 ", b"jpx ", b"jpm "), "JPEG 2000"),
    ((b"jxl ",), "JPEG XL"),
    ((b"M4A ", b"M4B "), None),  # sound
    ((b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"mp71", b"avc1", b"M4V ", b"M4VP"), VIDEO),
    ((b"qt  ", b"XAVC", b"MSNV", b"dash", b"f4v ", b"F4V ", b"3gp4", b"3gp5", b"3gp6", b"3gp7", b"3g2a"), VIDEO),
)
# Brands that do not tell the kind of file: they only name the rules that it follows.
_GENERIC = {b"mif1", b"msf1", b"isom", b"iso2", b"mp41", b"mp42"}


def image_format(head: bytes) -> str | None:
    """The format of a file with these first bytes, if it is one that we open; else None."""
    if is_raw_like_tiff(head):
        return None
    if (kind := _media(head)) is not None:
        return kind if kind in FORMATS or (kind == HEIC and HEIC_IS_OPENED) else None
    for magic, name in _OURS:
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and len(head) >= 12 and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    return None


def other_format(head: bytes) -> str | None:
    """The name of the format of a file with these first bytes, if it is one that we know and do not open; else None.

    Videos are named, too, since users keep them in the same folders as their images.
    """
    if (kind := _media(head)) is not None:
        return None if image_format(head) == kind else kind
    return next((name for offset, magic, name in _OTHERS if head[offset:].startswith(magic)), None)


def _media(head: bytes) -> str | None:
    """The format of a file of the MP4 family, by its own brand, or else by those that it conforms to."""
    if head[4:8] != b"ftyp":
        return None
    end = min(len(head), max(16, int.from_bytes(head[:4], "big")))
    own, conforms_to = head[8:12], {head[at : at + 4] for at in range(16, end - 3, 4)}
    for kinds in ({own} - _GENERIC, conforms_to | {own}):
        for brands, name in _BRANDS:
            if kinds.intersection(brands):
                return name
    return None


def is_raw_like_tiff(head: bytes) -> bool:
    """Whether a file with these first bytes is camera raw, although it begins like a TIFF."""
    return head[:2] in (b"II", b"MM") and any(head[offset:].startswith(magic) for offset, magic in _RAW_LIKE_TIFF)
