"""Opens HEIC if the extra `heic` is installed. Knows how pillow-heif turns pictures, and nothing of other formats.

pillow-heif turns pictures as the boxes `irot` and `imir` in the file say, and sets their EXIF orientation to upright.
So nothing is left to do for the rule "exif"; for the rule "raw" the turns of the boxes are undone.
Source: https://pillow-heif.readthedocs.io/ and ISO/IEC 23008-12 (irot, imir).
"""

from typing import Any

from PIL import Image

from workers.inference.reading.formats import HEIC_IS_OPENED

PILLOW_NAME = "HEIF"

_Turn = Image.Transpose
# The turn that undoes each box. Angles are counter-clockwise, like Pillow's. Axis 0 mirrors top and bottom, axis 1 left
# and right.
_UNDONE = {
    ("irot", 90): _Turn.ROTATE_270,
    ("irot", 180): _Turn.ROTATE_180,
    ("irot", 270): _Turn.ROTATE_90,
    ("imir", 0): _Turn.FLIP_TOP_BOTTOM,
    ("imir", 1): _Turn.FLIP_LEFT_RIGHT,
}

if HEIC_IS_OPENED:
    import pillow_heif

    # One thread for each picture is enough, as several pictures are decoded at once. Thumbnails, depth and auxiliary
    # images are not decoded.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def turned_back(image: Image.Image) -> list[Image.Transpose]:
    """The turns that bring a HEIC picture, which is opened but not loaded yet, back to the axes of its file."""
    file: Any = image
    boxes = file._heif_file[image.tell()]._c_image.transformations  # private, as pillow-heif has no public way
    return [_UNDONE[box] for box in reversed(boxes) if box in _UNDONE]
