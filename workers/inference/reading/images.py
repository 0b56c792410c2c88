"""Decodes an image file to RGB pixels, or says why it cannot be used. Knows image formats, but no disks and no models.

The rules are the same for every format:

- The content decides, never the file's name. JPEG, PNG, WEBP, TIFF, BMP, GIF and AVIF are opened, and HEIC if the extra
  `heic` is installed; no other format is.
- Of several frames or pages the first one is taken, as the others are other pictures or smaller versions. A TIFF is
  refused if it says itself that its first picture is not the main one: if it is camera raw, if the first of several
  pictures is marked as reduced or the first one as a mask, if it is a smaller version of a picture that the file names
  as its own, or if a slide scanner calls it a label, macro or thumbnail and there is a larger page. A larger page alone
  is no reason, as scanned pages differ in size.
- EXIF orientation is applied; the rule "raw" keeps the axes of the file.
- Grey, palette, CMYK and other modes become RGB. Alpha is dropped, and colour profiles are not applied, as in Pillow's
  `convert("RGB")`, so that results equal those of a plain script.
- Of samples of more than 8 bits the highest 8 of the declared bits are kept, in the same way for all images, with a
  warning if the picture then is nearly black or one grey; "stretch" uses each picture's own range (see `samples`).
  Wider, signed and float samples have no agreed range and are refused.
- TIFFs that Pillow refuses, or of which it gives only a part, are opened by the rule of `bands`.
- JPEGs are decoded by simplejpeg, which gives the same pixels as Pillow and is faster. Pillow decodes all other files,
  and JPEGs that simplejpeg refuses.
- Damaged metadata never makes a picture unreadable: it is removed before decoding (see `metadata`), and a damaged EXIF
  block is ignored. Files with missing pixels, or damage that the decoder reports, are refused. So are, before they are
  decoded, files that would unpack to much more than their picture (see `bounds`).
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from workers.errors import ErrorClass
from workers.inference.reading import bands, bounds, heic, metadata, samples, unusable
from workers.inference.reading.content import read_content
from workers.inference.reading.formats import (
    FORMATS,
    HEAD_BYTES,
    HEIC_IS_OPENED,
    is_raw_like_tiff,
)
from workers.inference.reading.rules import ReadRules as ReadRules  # who reads images imports it from here, too
from workers.inference.reading.rules import UnreadableImage as UnreadableImage
from workers.inference.reading.tiff import ORIENTATION, Directories, Directory, is_described, not_the_picture
from workers.inference.stages import Report, Stage, timed, unheard
from workers.places.location import FileSeen

DIGEST_BYTES = 16  # so many that no two files of any run have the same by chance

RGB = npt.NDArray[np.uint8]
"""Pixels of shape (height, width, 3)."""

JPEGS = ("JPEG", "MPO")
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PILLOW_FORMATS = (*FORMATS, heic.PILLOW_NAME) if HEIC_IS_OPENED else FORMATS

# The turn that makes each EXIF orientation upright (Exif 2.32, tag 274); orientation 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The turn that undoes the one above. All but the quarter turns are their own inverse.
_TURNED_BACK = _UPRIGHT | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

# Pillow's own limit is switched off, since up to twice its value it only warns. `ReadRules.max_pixels` replaces it.
Image.MAX_IMAGE_PIXELS = None

# Pillow's warnings about metadata and about later frames, which do no harm. (Some tags of a TIFF are needed for its
# picture, but if one of these is damaged, Pillow does not recognise the file.)
_HARMLESS = (
    "(Possibly c|C)orrupt EXIF",
    "Metadata Warning",
    "Tag data larger than file",
    "Tag offset too large",
    "Invalid APNG",
    "Image appears to be a malformed MPO",
)


def refuse_what_pillow_warns_of() -> None:
    """Make warnings of Pillow errors in the whole process, as Python has no filters for a single thread."""
    warnings.filterwarnings("error", module=r"PIL\.")
    for beginning in _HARMLESS:
        warnings.filterwarnings("ignore", beginning, module=r"PIL\.")


refuse_what_pillow_warns_of()


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image that can be used."""

    pixels: RGB
    file: FileSeen
    warning: str | None = None  # what is odd about it, in one line without details, so that images can be counted by it
    digest: bytes | None = None  # of the file's bytes, if the rules ask for it


def read_image(path: str, rules: ReadRules, report: Report = unheard) -> ReadImage:
    """Read the image at an absolute `path`. Raises `UnreadableImage`; never waits for a pipe or a device.

    `report` gets the seconds of the stages READ and DECODE.
    """
    with timed(report, Stage.READ):
        data, file = read_content(path, rules)
    try:
        with timed(report, Stage.DECODE):
            pixels, warning = _decode(data, rules)
            digest = blake2b(data, digest_size=DIGEST_BYTES).digest() if rules.digests else None
    except UnreadableImage as error:
        error.file = file
        raise
    except MemoryError:
        raise UnreadableImage(ErrorClass.OUT_OF_MEMORY, "does not fit into memory", file) from None
    return ReadImage(pixels, file, warning, digest)


def _decode(data: bytes, rules: ReadRules) -> tuple[RGB, str | None]:
    """The pixels, and a warning or None."""
    try:
        first = _check_first_picture(data, rules)
        if first is not None and is_described(first) and bands.comes_first(first):
            return _by_bands(data, first, rules)
        try:
            return _by_pillow(metadata.without_metadata(data), rules)
        except UnidentifiedImageError:
            if first is None or not is_described(first):
                raise unusable.unidentified(data) from None
        return _by_bands(data, first, rules)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        raise unusable.undecodable(data, error) from error


def _check_first_picture(data: bytes, rules: ReadRules) -> Directory | None:
    """The first directory of a TIFF, None for other formats. Raises `UnreadableImage` for an unfit TIFF."""
    if not data.startswith(TIFFS):
        return None
    if is_raw_like_tiff(data[:HEAD_BYTES]):
        raise UnreadableImage(ErrorClass.UNSUPPORTED, f"camera raw {unusable.CONVERT}")
    directories = Directories(data)
    first = directories.first
    if reason := not_the_picture(directories):
        raise UnreadableImage(ErrorClass.UNSUPPORTED, reason)
    if first is None or not is_described(first):
        return first
    if reason := bands.refused(first):
        raise UnreadableImage(ErrorClass.UNSUPPORTED, unusable.tiff_with(reason))
    _check_size(first.size, rules)
    if first.repeated:
        raise UnreadableImage(ErrorClass.DECODER_CRASH, "the TIFF's header says two things about its picture")
    if reason := bounds.too_much_tiff(first, rules.max_pixels):
        raise UnreadableImage(ErrorClass.TOO_LARGE, reason)
    return first


def _by_bands(data: bytes, first: Directory, rules: ReadRules) -> tuple[RGB, str | None]:
    """Decode a TIFF that is complete and that Pillow cannot decode."""
    if reason := bands.unfit(first):
        raise UnreadableImage(ErrorClass.UNSUPPORTED, unusable.tiff_with(reason))
    pixels, warning = bands.read(data, first, stretch=rules.stretch)
    turn = None if rules.orientation == "raw" else _UPRIGHT.get(first.first(ORIENTATION, 1))
    return _turned(Image.fromarray(pixels), [turn] if turn is not None else []), warning


def _by_pillow(data: bytes, rules: ReadRules) -> tuple[RGB, str | None]:
    with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
        _check_size(image.size, rules)
        if image.format in JPEGS and (
            reason := bounds.too_much_jpeg(data, image.width * image.height, rules.max_pixels)
        ):
            raise UnreadableImage(ErrorClass.TOO_LARGE, reason)
        if (pixels := _fast_pixels(image, data)) is not None:
            turn = None if rules.orientation == "raw" else _UPRIGHT.get(_orientation(image))
            return pixels if turn is None else _turned(Image.fromarray(pixels), [turn]), None
        deep = samples.is_deep(image)
        turns = _load(image, rules)
        rgb, warning = samples.as_rgb(image, data, stretch=rules.stretch) if deep else (_to_rgb(image), None)
        return _turned(rgb, turns), warning


def _turned(image: Image.Image, turns: Sequence[Image.Transpose]) -> RGB:
    for turn in turns:
        image = image.transpose(turn)
    return np.array(image)


def _check_size(size: tuple[int, int], rules: ReadRules) -> None:
    """Raise `UnreadableImage` for a wrong size in the header, before any pixel is decoded."""
    width, height = size
    if width * height > rules.max_pixels:
        raise UnreadableImage(
            ErrorClass.TOO_LARGE, f"{width} x {height} pixels, over the limit of {rules.max_pixels:,}"
        )
    if min(width, height) < rules.min_side:
        raise UnreadableImage(
            ErrorClass.TOO_SMALL, f"{width} x {height} pixels; a side needs at least {rules.min_side}"
        )


def _fast_pixels(image: Image.Image, data: bytes) -> RGB | None:
    """The RGB pixels of a JPEG, the same as Pillow's; None if Pillow must decode the file.

    That is so for other formats, for damaged JPEGs, and for CMYK, which only Pillow converts to RGB in its own way.
    """
    if image.format not in JPEGS or image.mode not in ("RGB", "L"):
        return None
    try:
        # strict=True turns warnings of the decoder, for instance of missing data, into errors.
        pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        return None
    return cast(RGB, pixels)


def _load(image: Image.Image, rules: ReadRules) -> list[Image.Transpose]:
    """Decode the pixels; return the turns that then bring them into the wanted orientation, in this order."""
    raw = rules.orientation == "raw"
    if image.format == heic.PILLOW_NAME:
        turns = heic.turned_back(image) if raw else []
        image.load()
        return turns
    if image.format == "TIFF":  # Pillow turns a TIFF upright while it loads the file
        turn = _TURNED_BACK.get(_orientation(image)) if raw else None
        image.load()
    else:
        image.load()  # before asking for EXIF, which would also load a PNG, but ignore its errors
        turn = None if raw else _UPRIGHT.get(_orientation(image))
    return [] if turn is None else [turn]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an EXIF block may be damaged in any way, and the picture be whole
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # gives the same colours without the warning of a conversion straight to RGB
    return image.convert("RGB")
