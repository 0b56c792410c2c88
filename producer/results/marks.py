"""By what a file is recognised as made by an export of ours; knows the marks of all formats and writes nothing."""

import csv
import io
import json
from typing import BinaryIO

from producer.layout import MASK_HEAD_BYTES, is_mask

STATUS_COLUMNS = ("sam3_status", "sam3_error", "sam3_width", "sam3_height")
GONE_COLUMN = "sam3_gone"
PROMPT_COLUMNS = ("instances", "score", "presence", "mask", "capped")

COCO_START = (
    b'{\n"info": '  # nobody else's writer breaks its lines there, so a COCO file that was saved again is not ours
)
COCO_KEYS = {"run", "model", "weights_sha256", "min_score"}

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_COMMENT = b"\xff\xd8\xff", b"sam3-queue: preview of run "

HEADER_BYTES = 1 << 20  # the longest CSV header, and the longest info of a COCO file, that is looked at


def made_by_export(file: BinaryIO) -> bool:
    """Whether what `file` holds was written by an export of ours, of whatever run: read from where it stands."""
    head = file.read(MASK_HEAD_BYTES)
    if head.startswith(PNG_START):
        return is_mask(head)
    if head.startswith(JPEG_START):
        return JPEG_COMMENT in head
    head += file.read(HEADER_BYTES)
    return _is_coco(head) if head.startswith(COCO_START) else _is_csv(head)


def _is_coco(head: bytes) -> bool:
    info = head[len(COCO_START) :].partition(b"\n")[0].removesuffix(b",")
    try:
        facts = json.loads(info)
    except ValueError:
        return False
    return isinstance(facts, dict) and facts.keys() >= COCO_KEYS


def _is_csv(head: bytes) -> bool:
    """Whether its header ends with our columns. With a column behind them somebody has gone on working in it."""
    try:
        header = next(csv.reader(io.StringIO(head.decode(errors="replace"), newline="")), [])
    except csv.Error:
        return False
    if STATUS_COLUMNS[0] not in header:
        return False
    first = header.index(STATUS_COLUMNS[0])
    added = header[first + len(STATUS_COLUMNS) :]
    return tuple(header[first : first + len(STATUS_COLUMNS)]) == STATUS_COLUMNS and all(map(_is_added, added))


def _is_added(column: str) -> bool:
    return column.startswith("sam3_") or column.endswith(tuple(f"_{name}" for name in PROMPT_COLUMNS))
