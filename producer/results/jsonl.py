"""Exports a run as JSON Lines: one object for each row of the input, or for each instance. Knows no SQL, no pixels.

The format: https://jsonlines.org.
"""

import json
from collections.abc import Iterable
from typing import BinaryIO

from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows
from producer.results.formats import FLAT, Format
from producer.results.records import IMAGE_COLUMNS, INSTANCE_COLUMNS, Record, Records

LINE_BYTES = 1 << 22  # so many bytes are searched for the end of the first line


def export_jsonl(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write the rows of `producer.results.records`, each on a line of its own, in UTF-8 without escaped letters.

    Raises `UsageError` when the file cannot be written.
    """
    with request.files.replacing(request.out) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(group: list[Record]) -> None:
            file.writelines(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in group)

        return Records(request).write(images, progress, write)


def is_ours(file: BinaryIO) -> bool:
    """Whether the first line ends with our columns. A file with another column after them holds a person's work."""
    try:
        first = json.loads(file.readline(LINE_BYTES))
    except ValueError:
        return False
    names = tuple(first) if isinstance(first, dict) else ()
    return any(names[-len(ours) :] == ours for ours in (IMAGE_COLUMNS, INSTANCE_COLUMNS))


FORMAT = Format(export_jsonl, is_ours, ".jsonl", takes=FLAT)
