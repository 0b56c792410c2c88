"""Exports a run as JSON Lines: one object for each row of the input, or for each instance. Knows no SQL, no pixels.

The format: https://jsonlines.org.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, BinaryIO

from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows
from producer.results.exports.records import Record, Records, end_with_ours
from producer.results.formats import FLAT, Format

LINE_BYTES = 1 << 26  # so many bytes are searched for the end of the first line, which may hold thousands of masks


def export_jsonl(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write the rows of `exports.records`, each on a line of its own, in UTF-8 without escaped letters.

    Raises `UsageError` when the file cannot be written.
    """
    with request.files.replacing(request.out) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(group: list[Record]) -> None:
            file.writelines(_line(record) + "\n" for record in group)

        return Records(request).write(images, progress, write)


_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make an encoder each time


def _line(record: Record) -> str:
    try:
        return _encoded(record)
    except ValueError:  # a cell of the input has a number that JSON has not, such as NaN
        return json.dumps(_finite(record), ensure_ascii=False)


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def is_ours(file: BinaryIO) -> bool:
    """Whether the first line ends with our columns."""
    if file.read(1) != b"{":
        return False
    try:
        first = json.loads(b"{" + file.readline(LINE_BYTES))
    except (ValueError, RecursionError):
        return False
    return end_with_ours(first)


FORMAT = Format(export_jsonl, is_ours, ".jsonl", origin_beside=True, takes=FLAT)
