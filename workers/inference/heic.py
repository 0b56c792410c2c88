"""HEIC through the extra `heic`, where it is installed. Knows how pillow-heif turns pictures, nothing of other formats.

pillow-heif gives pictures upright, as the file's own boxes say (irot and imir), and calls their EXIF upright too: HEIC
means EXIF for nobody's eyes. So nothing is left to do for the one rule, and for "raw" the boxes are undone.
"""

from typing import Any

from PIL import Image

from workers.inference.formats import HEIC_IS_OPENED

PILLOW_NAME = "HEIF"

_Turn = Image.Transpose
# An angle is counter-clockwise, as Pillow's are; an axis says what is mirrored: 0 top and bottom, 1 left and right.
_UNDONE = {
    ("irot", 90): _Turn.ROTATE_270,
    ("irot", 180): _Turn.ROTATE_180,
    ("irot", 270): _Turn.ROTATE_90,
    ("imir", 0): _Turn.FLIP_TOP_BOTTOM,
    ("imir", 1): _Turn.FLIP_LEFT_RIGHT,
}

if HEIC_IS_OPENED:
    import pillow_heif

    # One picture a thread is decoded already; what lies beside the picture is not.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def turned_back(image: Image.Image) -> list[Image.Transpose]:
    """What brings a HEIC picture, opened but not loaded yet, back to the axes of its file."""
    file: Any = image
    boxes = file._heif_file[image.tell()]._c_image.transformations  # pillow-heif tells these to nobody else
    return [_UNDONE[box] for box in reversed(boxes) if box in _UNDONE]
