"""Writes the masks, results.csv and the preview of a sam3-run, while the run goes on and at its end. Starts no node."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from producer.cli.blank_masks import tell_blank_masks
from producer.cli.exported import export, spelled_export
from producer.cli.found import Found, view_of
from producer.layout import RESULTS
from producer.results.choice import Choice
from producer.results.common import ExportRequest
from producer.results.files.inputs import Inputs
from producer.results.files.targets import Targets
from producer.results.formats import file_of
from workers.cli.base import say
from workers.errors import UsageError


@contextmanager
def following(found: Found, select: str, *, force: bool = False) -> Iterator[None]:
    """Write masks and previews of the run's done images until the block ends.

    Raises `UsageError` before the block if the folder of masks cannot be written or belongs to another run.
    """
    from producer.results.follow import Follower  # needs Pillow and numpy, which are installed, as nodes need them

    request, files = _mask_request(found, select, force=force)
    with Follower(found.sessions, request, files["preview"], say):
        yield


@dataclass(frozen=True)
class Written:
    """What was written to a run's folder."""

    files: dict[str, str]  # paths by name
    whole: bool  # results.csv names all masks
    refused: dict[str, str]  # formats that could not be written, with the reason


def write_files(found: Found, select: str, also: Sequence[str] = (), *, force: bool = False) -> Written:
    """Write the missing masks, results.csv, preview.jpg and the formats of `also` to the run's folder.

    A format that is refused, for instance since two images would get one file, does not keep the others from being
    written.
    """
    from producer.results.preview import write_preview  # needs Pillow and numpy, which are installed, as nodes ran

    request, files = _mask_request(found, select, force=force)
    folder = files["masks"].parent
    export(found, request, "png")
    table = replace(request, out=files["results"], command=_spelled(found, "csv", request))
    blank = tell_blank_masks(found, table, export(found, table, "csv"))
    write_preview(request.view, found.sessions, files["preview"], request.targets)
    refused: dict[str, str] = {}
    for name in also:
        out = file_of(folder, name)
        try:
            export(found, replace(request, out=out, command=_spelled(found, name, request)), name)
            files[name] = out
        except UsageError as error:
            refused[name] = str(error)
            say(f"error: --also {name}: {error}")
    return Written({name: str(file) for name, file in files.items()}, not blank, refused)


def _mask_request(found: Found, select: str, *, force: bool) -> tuple[ExportRequest, dict[str, Path]]:
    """The request for the masks, and the paths of all results by name."""
    assert found.folder is not None
    files = {name: found.folder / file for name, file in RESULTS.items()}
    view, targets = view_of(found), Targets(found.folder, Inputs(found.sessions), force=force)
    request = ExportRequest(view, Choice.of_run(view), files["masks"], select, files["masks"], targets=targets)
    given = {} if select == "union" else {"select": select}
    return replace(request, command=_spelled(found, "png", request, given)), files


def _spelled(found: Found, format: str, request: ExportRequest, given: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The sam3-export that makes the same again."""
    return spelled_export(found, format, request.choice.typed(request.view), given)
