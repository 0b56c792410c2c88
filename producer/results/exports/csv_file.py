"""Exports a run as CSV: the input's columns, unchanged and in order, then the results. Knows no SQL and no pixels."""

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from db.states import ImageState
from db.values import ClassResult, FoundInstance
from db.views.results import ExportedImage
from db.views.run_views import RunView
from producer.results.common import (
    ExportRequest,
    Summary,
    TellRows,
    cell_text,
    class_slugs,
    counting,
    found_in,
    input_cells,
)
from producer.results.exports.mask_folder import chosen, digest, holds, read_mask_folder
from producer.results.exports.mask_style import PLAIN
from producer.results.files.names import mask_path
from producer.results.formats import Format
from producer.slugs import numbered
from workers.errors import UsageError

STATUS_COLUMNS = ("sam3_status", "sam3_error", "sam3_width", "sam3_height")
GONE_COLUMN = "sam3_gone"
PROMPT_COLUMNS = ("instances", "score", "presence", "mask", "capped")
ROW_PROMPTS = "prompt"
# Cells that begin so may be run as formulas; the last four are full-width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
HEADER_BYTES = 1 << 20  # so many bytes are searched for the end of the header


def export_csv(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write one line for each row, also for duplicates and rejected rows; `images` come from `common.read_images`.

    `sam3_status` (segmented, empty, failed, pending, cancelled, duplicate, rejected) depends on the run's threshold.
    Instances, best score and mask depend on the choice: with a higher threshold a segmented image may have 0 instances.
    Each class of the whole run has five columns; their names get a number if the input has such a column already.
    `capped` is `true` or `false`. If rows have prompts of their own, the columns `prompt_*` hold the values of all
    classes of the row, joined by `|`. A mask is named if its file exists and was made from the same instances, else the
    cell is blank. A duplicate shows the results of its first row. With `request.gone` a last column `sam3_gone` is
    `true` for rows that the source no longer has. Raises `UsageError` when the file cannot be written.
    """
    sheet = _Sheet(request, class_slugs(request.view), _Masks(request))
    rows = instances = 0
    with request.files.replacing(request.out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(_UnixLines(file))
        shown = _without_formulas if request.own.get("spreadsheet_safe") else list
        writer.writerow(shown([*_header(request.view, sheet.slugs), *([GONE_COLUMN] if request.gone else [])]))
        for image in counting(images, progress):
            writer.writerow(shown(sheet.line(image)))
            rows += 1
            if image.state == ImageState.DONE:
                instances += len(found_in(image))
    return Summary(rows, instances, 1, request.out, blank_masks=sheet.masks.blank)


@dataclass(frozen=True)
class _UnixLines:
    """Ends lines with a newline only. With that line end, csv.writer itself would not quote a lone carriage return."""

    file: TextIO

    def write(self, line: str) -> None:
        self.file.write(line.removesuffix("\r\n") + "\n")


@dataclass(frozen=True)
class _Sheet:
    """Makes the lines of the CSV."""

    request: ExportRequest
    slugs: dict[int, str]  # by class
    masks: "_Masks"

    def line(self, image: ExportedImage) -> list[str]:
        view = self.request.view
        by_class = {result.class_id: self._values(image, result) for result in image.results}
        line = list(map(cell_text, input_cells(view, image)))
        line += [image.status, _error(image), _number(image.width), _number(image.height)]
        for class_id in view.every_class:
            line += by_class.get(class_id, [""] * len(PROMPT_COLUMNS))
        if _has_row_prompts(view):
            columns = zip(*by_class.values(), strict=True) if by_class else [[]] * len(PROMPT_COLUMNS)
            line += ["|".join(values) for values in columns]
        if self.request.gone:
            line.append("true" if image.gone else "")
        return line

    def _values(self, image: ExportedImage, result: ClassResult) -> list[str]:
        """The cells of one result: number of instances, best score, presence, path of the mask, capped."""
        found = result.instances
        best = f"{max(instance.score for instance in found):.6f}" if found else ""
        mask = self.masks.cell(self.slugs[result.class_id], image, found)
        return [str(len(found)), best, f"{result.presence:.6f}", mask, "true" if result.capped else "false"]


class _Masks:
    """Makes the cells with the paths of masks, and counts the cells left blank although there are instances."""

    def __init__(self, request: ExportRequest) -> None:
        self.blank = 0
        self._request = request
        self._folder = None if request.masks is None else read_mask_folder(request.masks)
        if self._folder is not None and not self._folder.belongs_to(request.view):
            self._folder = None
        if self._folder is not None and (self._folder.style.each or self._folder.style.index):
            how = " ".join(self._folder.style.typed())
            raise UsageError(
                f"--masks {request.masks} was made with {how}, but a cell names the mask of one prompt in an image: "
                "export png without that into another folder"
            )
        self._start = _shown_folder(request)

    def cell(self, slug: str, image: ExportedImage, found: Sequence[FoundInstance]) -> str:
        style = PLAIN if self._folder is None else self._folder.style
        if self._request.masks is None or not (found or style.empty):
            return ""
        if self._folder is not None:
            root, folded = self._request.view.source.root, self._folder.folded
            place = mask_path(slug, image.path, root, folded=folded, template=style.template, twin=image.twin)
            made_from = digest(image.height, image.width, chosen(found, self._folder.select), style.edits)
            if holds(self._request.masks / place, made_from):
                return os.path.join(self._start, place)
        self.blank += 1
        return ""


def _header(view: RunView, slugs: dict[int, str]) -> list[str]:
    header = [*view.source.columns, *STATUS_COLUMNS]
    blocks = [slugs[class_id] for class_id in view.every_class]
    if _has_row_prompts(view):
        blocks.append(ROW_PROMPTS)
    for name in blocks:
        header += _block(name, header)
    return header


def _block(name: str, taken: Sequence[str]) -> list[str]:
    """The names of a prompt's columns. If one of them is taken, all get the same number: `person_2_instances`, ... ."""
    free = numbered(name, lambda name: any(f"{name}_{column}" in taken for column in PROMPT_COLUMNS))
    return [f"{free}_{column}" for column in PROMPT_COLUMNS]


def _has_row_prompts(view: RunView) -> bool:
    return len(view.prompts) > len(view.every_image)


def _error(image: ExportedImage) -> str:
    """The error as `class: message` on one line; empty if there is none."""
    if image.error_class is None:
        return ""
    return " ".join(f"{image.error_class}: {image.error or ''}".split()).removesuffix(":")


def _without_formulas(cells: list[str]) -> list[str]:
    """Put an apostrophe before each cell that a spreadsheet may run as a formula; numbers stay as they are.

    Source: https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return [f"'{cell}" if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else cell for cell in cells]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _shown_folder(request: ExportRequest) -> str:
    """The folder of masks for the cells: relative to the CSV if it is below the CSV's folder, else absolute."""
    if request.masks is None:
        return ""
    masks, folder = Path(os.path.abspath(request.masks)), Path(os.path.abspath(request.out)).parent
    return str(masks.relative_to(folder)) if masks.is_relative_to(folder) else str(masks)


def is_ours(file: BinaryIO) -> bool:
    """Whether the header ends with our columns. A file with another column after them holds a person's work."""
    head = file.read(HEADER_BYTES)
    if STATUS_COLUMNS[0].encode() not in head:  # the quick answer for files of other formats
        return False
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


FORMAT = Format(
    export_csv,
    is_ours,
    ".csv",
    origin_beside=True,
    takes={"masks": "columns for masks", "spreadsheet_safe": "cells"},
)
