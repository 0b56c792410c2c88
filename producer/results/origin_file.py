"""Writes how a file was made into a second file beside it, if its own format has no place for that. Knows no format.

Beside `results.csv` this is `.results.csv.sam3-export`, in JSON. Its name begins with a dot and has no suffix of data,
so that programs which read all files of a folder, or all that match `*.json`, do not take it for data.
"""

from pathlib import Path

from producer.layout import ORIGIN_SUFFIX
from producer.results.common import ExportRequest, Summary
from producer.results.exports.provenance import categories, provenance
from producer.results.files.folder_record import FolderRecord
from producer.results.files.names import LONGEST_NAME, checked
from producer.results.files.targets import Targets


class OriginFile(FolderRecord):
    mark = "sam3_origin"


def check_origin(files: Targets, out: Path) -> None:
    """Raise `UsageError` if `out` or the file beside it must not be written, since it is not ours. Changes nothing."""
    if not files.single:
        files.check(out)
        beside, path = files.beside(out)
        beside.check(_origin_of(path), OriginFile.is_ours)


def write_origin(request: ExportRequest, format: str, summary: Summary) -> None:
    """Write the file, unless it says the same already. Does nothing for standard output.

    Raises `UsageError` if it must not or cannot be written.
    """
    if request.files.single:
        return
    beside, path = request.files.beside(request.out)
    facts = {
        "file": path.name,
        "format": format,
        "images": summary.images,
        "instances": summary.instances,
        "uid": request.view.uid,
        "source": request.view.source.path,
        **provenance(request),
        "categories": categories(request),
    }
    content = OriginFile().text(facts).encode(errors="backslashreplace")  # JSON's own escapes of bytes that are no text
    if beside.read(_origin_of(path)) != content:
        with beside.replacing(_origin_of(path), OriginFile.is_ours) as temporary:
            temporary.write_bytes(content)


def remove_origin(request: ExportRequest) -> None:
    """Remove the file that an earlier export in another format has left beside a file of the same name."""
    if not request.files.single:
        beside, path = request.files.beside(request.out)
        beside.remove(_origin_of(path), OriginFile.is_ours)


def _origin_of(path: Path) -> Path:
    name = f".{path.name}{ORIGIN_SUFFIX}"
    fits = len(name.encode(errors="surrogateescape")) <= LONGEST_NAME
    return path.with_name(name if fits else f".{checked(path.name)}{ORIGIN_SUFFIX}")
