"""Reads the images of a run again, by the rules by which its workers read them. Knows files and pixels, no SQL."""

from dataclasses import replace

from PIL import Image, ImageOps

from db.views.run_views import RunView
from workers.inference.reading.images import ReadRules, read_image
from workers.inference.reading.rules import rules_of
from workers.places import location


def rules_of_exports(view: RunView) -> ReadRules:
    """The rules of the run's workers, for images as large as memory allows: a worker that cut one into tiles has read
    it before."""
    return replace(rules_of(view.source, view.frozen), digests=False).with_large_images(readers=1)


def read_within(place: str, rules: ReadRules, room: tuple[int, int]) -> Image.Image:
    """The image at `place`, as RGB that fits into `room` (width, height). Raises `UnreadableImage`."""
    try:
        picture = _reduced_jpeg(place, rules, room)
    except Exception:  # another format, or a JPEG that needs more care, or none at all
        picture = Image.fromarray(read_image(place, rules).pixels)
    scale = min(room[0] / picture.width, room[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _reduced_jpeg(place: str, rules: ReadRules, room: tuple[int, int]) -> Image.Image:
    """A JPEG is reduced while it is decoded, in a fraction of the time. Raises errors of any kind."""
    with (
        location.opened(place, None if rules.follow_symlinks else rules.root) as (_, file),
        Image.open(file, formats=("JPEG",)) as image,
    ):
        image.draft("RGB", (2 * max(room), 2 * max(room)))
        upright = ImageOps.exif_transpose(image) if rules.orientation == "exif" else image
        return upright.convert("RGB")
