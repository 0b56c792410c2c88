"""Reads the file of an image as it is, for exports that hold it. Knows no format and no pixels."""

from db.views.results import ExportedImage
from producer.results.common import ExportRequest
from workers.places import location

Given = tuple[str, str | None, int | None]  # arguments of `content`: where it is, where it must be, its bytes


def given(request: ExportRequest, image: ExportedImage) -> Given:
    """How to read the image with `content`."""
    source = request.view.source
    within = source.root if source.confined and not source.follow_symlinks else None
    return location.place(source.root, image.path), within, image.file_size


def content(place: str, within: str | None, size: int | None) -> bytes | None:
    """The bytes of an image; None if it cannot be read, has another size than when it was segmented, or lies out of the
    root that its run was confined to."""
    try:
        with location.opened(place, within) as (seen, file):
            return file.read() if size in (None, seen.size) else None
    except (OSError, ValueError):
        return None
