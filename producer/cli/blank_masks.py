"""Tells the user how many cells of masks a CSV leaves blank, and which commands fill them. Reads no SQL."""

import shlex
from pathlib import Path

from producer.cli.found import Found
from producer.results.common import ExportRequest, Summary
from producer.results.exports.mask_folder import MaskFolder, read_mask_folder
from producer.slugs import numbered
from workers.cli.base import counted, say


def tell_blank_masks(found: Found, request: ExportRequest, summary: Summary) -> bool:
    """If the CSV has blank cells of masks, say how many and which commands fill them; return whether it has any."""
    if not summary.blank_masks or request.masks is None:
        return False
    there = read_mask_folder(request.masks)
    folder = _folder_to_fill(request, request.masks, there)
    export = ["sam3-export", found.spelled, "--format"]
    options = ["--all"] * request.gone + ["--partial"] * request.partial
    options += request.choice.typed(request.view)
    options += [word for kind in request.only for word in ("--only", kind)]
    options += [] if request.rows_file is None else ["--rows", str(request.rows_file)]
    how = ["--select", there.select] if there is not None and there.select != "union" else []
    how += there.style.typed() if there is not None else []
    masks = [*export, "png", *options, *how, "-o", folder]
    table = [*export, "csv", *options, "--masks", folder, "-o", str(request.out)]
    say(f"{counted(summary.blank_masks, 'mask')} left blank: {request.masks} has none made from the same instances")
    say(f"Next: {shlex.join(masks)} && {shlex.join(table)}")
    return True


def _folder_to_fill(request: ExportRequest, masks: Path, there: MaskFolder | None) -> str:
    """The folder that a new export of masks should fill.

    It is the same one if its masks are of this run and choice of instances, else a new one beside it, since another
    CSV may refer to its masks.
    """

    def is_taken(name: str) -> bool:
        found = read_mask_folder(Path(name))
        return Path(name).exists() and (found is None or not _fits(found, request))

    if there is None or _fits(there, request):
        return str(masks)
    what = str(request.choice.threshold) if there.belongs_to(request.view) else request.view.name
    return numbered(f"{masks}-{what}", is_taken)


def _fits(folder: MaskFolder, request: ExportRequest) -> bool:
    return folder.belongs_to(request.view) and folder.choice == request.choice
