"""Recognises files that our exports wrote: asks each format, and knows the preview itself. Writes nothing."""

from typing import BinaryIO

from producer.results.format_names import MODULES, declaration

JPEG_START, JPEG_COMMENT = b"\xff\xd8\xff", b"sam3-queue: preview of run "
PREVIEW_HEAD_BYTES = 1024  # the comment ends within so many bytes of the file's start


def made_by_export(file: BinaryIO) -> bool:
    """Whether an export of ours wrote this file, in any format and for any run."""
    for recognises in (_is_preview, *(declaration(name).is_ours for name in MODULES)):
        file.seek(0)
        if recognises(file):
            return True
    return False


def _is_preview(file: BinaryIO) -> bool:
    head = file.read(PREVIEW_HEAD_BYTES)
    return head.startswith(JPEG_START) and JPEG_COMMENT in head
