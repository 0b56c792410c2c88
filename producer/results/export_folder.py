"""Writes the folder of a format that has files for each image, and records there which run it belongs to.

Knows no single format and no SQL. (Masks have a record of their own, `mask_folder`, as tables read it.)
"""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from db.states import ImageState
from db.views.results import ExportedImage
from producer.layout import EXPORT_RECORD
from producer.results.common import ExportRequest, Summary, TellRows, counting, wanted
from producer.results.folder_writer import FolderWriter, Piece, Signs
from producer.results.mask_folder import read_mask_folder
from producer.results.names import folds_names
from producer.results.targets import writing
from workers.errors import UsageError

MANIFEST = EXPORT_RECORD
PAGE_IMAGES = 500  # images for which the database is asked at once whether their files would replace inputs


@dataclass(frozen=True)
class ExportFolder:
    """How the files of a folder were made. It is written as a file in that folder."""

    format: str
    run: str
    uid: str
    source: str  # path of the run's CSV or folder
    folded: bool  # whether names that differ only in case have checksums, see `names.mask_path`
    made: dict[str, Any] = field(default_factory=dict)  # threshold and flags
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

    def begin() -> None:
        record(request, folder)

    with FolderWriter(request.files, signs, begin, request.jobs) as files:
        left = iter(counting(images, progress))
        while page := list(itertools.islice(left, PAGE_IMAGES)):
            done = [(image, pieces(image)) for image in page if image.state == ImageState.DONE]
            request.files.look_up([piece.target for _, each in done for piece in each])
            for image, each in done:
                listed += 1
                instances += sum(len(wanted(request, result)) for result in image.results)
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
    there = read_export_folder(out)
    if there is None and read_mask_folder(out) is not None:
        raise UsageError(f"{out} holds masks: choose another -o for {format}")
    if there is not None and there.format != format:
        raise UsageError(f"{out} holds files of the format {there.format}: choose another -o for {format}")
    if there is not None and there.uid != view.uid and (there.run, there.source) != (view.name, view.source.path):
        raise UsageError(f"{out} holds files of run {there.run}: choose another -o for those of {view.name}")
    with writing(out):
        folded = folds_names(out) or (there is not None and there.folded)
    made = {"threshold": request.min_score, "min_area": request.min_area, "max_instances": request.max_instances}
    return ExportFolder(format, view.name, view.uid, view.source.path, folded, made | dict(request.own)), there


def read_export_folder(folder: Path) -> ExportFolder | None:
    """Read how the files of a folder were made; None if the folder has no such record, or one that we did not write."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        return ExportFolder(**{name: facts[name] for name in ExportFolder.__dataclass_fields__ if name in facts})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_manifest(file: BinaryIO) -> bool:
    """Whether we wrote this file, so that it may be replaced."""
    try:
        facts = json.loads(file.read())
    except (ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.get("sam3_export") is True


def record(request: ExportRequest, folder: ExportFolder, *, complete: bool = False) -> None:
    """Write the record, unless it says the same already."""
    folder = replace(folder, complete=complete)
    if read_export_folder(request.out) != folder:
        facts = {"schema": 1, "sam3_export": True, **asdict(folder)}
        with request.files.replacing(request.out / MANIFEST, is_manifest) as temporary:
            temporary.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")
