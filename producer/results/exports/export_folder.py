"""Writes the folder of a format that has files for each image, and records there which run it belongs to.

Knows no single format and no SQL. (Masks have a record of their own, `mask_folder`, as tables read it.)
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from db.states import ImageState
from db.views.results import ExportedImage
from producer.layout import EXPORT_RECORD
from producer.results.common import ExportRequest, Summary, TellRows, counting, found_in
from producer.results.exports.mask_folder import read_mask_folder
from producer.results.exports.provenance import provenance
from producer.results.files.folder_record import FolderRecord, read_facts
from producer.results.files.folder_writer import FolderWriter, Piece, in_pages
from producer.results.files.targets import Signs
from workers.errors import UsageError

MANIFEST = EXPORT_RECORD


@dataclass(frozen=True)
class ExportFolder(FolderRecord):
    """How the files of a folder were made. It is written as a file in that folder."""

    mark = "sam3_export"
    format: str
    run: str
    uid: str
    source: str
    folded: bool
    made: dict[str, Any] = field(default_factory=dict)  # threshold and flags
    origin: dict[str, Any] = field(default_factory=dict)  # what the results were made with, see `provenance`
    complete: bool = False  # whether the last export was finished


def write_folder(
    request: ExportRequest,
    images: Iterable[ExportedImage],
    progress: TellRows,
    folder: ExportFolder,
    signs: Signs,
    pieces: Callable[[ExportedImage], list[Piece]],
) -> Summary:
    """Write the files of all done images as `pieces` says. Raises `UsageError` for a file that is not ours."""
    listed = instances = 0
    done = (image for image in counting(images, progress) if image.state == ImageState.DONE)
    with FolderWriter(request.files, signs, partial(record, request, folder), request.jobs) as files:
        for image, each in in_pages(request.files, done, pieces):
            listed += 1
            instances += len(found_in(image))
            for piece in each:
                files.add(piece)
        files.finish()
    record(request, folder, complete=True)
    told = (f"{files.not_made} not made, as their images cannot be read as they were",) if files.not_made else ()
    return Summary(listed, instances, files.written + files.kept, request.out, kept=files.kept, told=told)


def open_folder(request: ExportRequest, format: str) -> tuple[ExportFolder, ExportFolder | None]:
    """Make the folder, and return the record that it should have and the one that it has.

    Raises `UsageError` if it is a file, cannot be written, or holds files of another run or format.
    """
    out, view = request.out, request.view
    request.files.make_folder(out)
    shown, there = request.files.shown(out), read_export_folder(request)
    if there is None and read_mask_folder(out, request.files) is not None:
        raise UsageError(f"{shown} holds masks: choose another -o for {format}")
    if there is not None and there.format != format:
        raise UsageError(f"{shown} holds files of the format {there.format}: choose another -o for {format}")
    if there is not None and not there.belongs_to(view):
        raise UsageError(f"{shown} holds files of run {there.run}: choose another -o for those of {view.name}")
    folded = request.files.folds_names() or (there is not None and there.folded)
    made = request.choice.record() | dict(request.own)
    return ExportFolder(format, view.name, view.uid, view.source.path, folded, made, provenance(request)), there


def read_export_folder(request: ExportRequest) -> ExportFolder | None:
    """Read how the files of a folder were made; None if the folder has no such record, or one that we did not write."""
    try:
        return ExportFolder(**ExportFolder.known(read_facts(request.files.read(request.out / MANIFEST))))
    except TypeError:
        return None


def record(request: ExportRequest, folder: ExportFolder, *, complete: bool = False) -> None:
    """Write the record, unless it says the same already."""
    folder = replace(folder, complete=complete)
    if read_export_folder(request) != folder:
        with request.files.replacing(request.out / MANIFEST, ExportFolder.is_ours) as temporary:
            temporary.write_text(folder.text(asdict(folder)), "utf-8")
