"""Writes a run's results to files, and says what they hold and what is missing. Reads SQL only; declares no flags."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import DBAPIError

from db.refusals import passes
from db.session import describe_failure, read
from db.states import RunState
from db.steering import pause_of
from db.views.rows import done_paths
from db.views.run_views import RunView
from producer.cli.blank_masks import tell_blank_masks
from producer.cli.flags.choice_flags import OTHERS, choice
from producer.cli.flags.chosen_rows import chosen_rows
from producer.cli.found import Found, find_run, is_database_of, view_of
from producer.cli.progress import Meter
from producer.cli.run_folder import is_run_folder, read_run_file
from producer.garbage import rarely_collected
from producer.layout import RESULTS
from producer.results.common import ExportRequest, Summary, read_images
from producer.results.files.bucket_output import BucketOutput
from producer.results.files.inputs import Inputs
from producer.results.files.names import sharing
from producer.results.files.stdout import StandardOutput
from producer.results.files.targets import Targets
from producer.results.format_names import MODULES
from producer.results.formats import file_of, format_named, names_of_files, own_flags, require_libraries, require_taken
from producer.results.origin_file import check_origin, remove_origin, write_origin
from producer.results.so_far import SoFar, how_far, require_exportable
from producer.sources import place
from producer.sources.rows.cells import UNSTORABLE, storable
from workers.cli import base
from workers.cli.base import counted, say
from workers.errors import NotOver, Unreachable, UsageError
from workers.places import location

NOT_OF_CONTENT = ("masks", "force", "json", "jobs")  # flags


def write(run: str, format: str, output: Path | str, flags: dict[str, Any]) -> int:
    """Export as the flags say; return the exit code of the command. Raises `Sam3Error`. A text as output is a URL."""
    _refuse_unfit_flags(format, output, flags)
    found = find_run(run, RunState.DELETING)
    if isinstance(output, Path) and not flags["force"]:
        _refuse_results_of_other_run(found, output)
    request = _request(found, format, output, flags)
    try:
        with telling_how_to_go_on(found, None if format_named(format).folder else output):
            summary = export(found, request, format)
    except NotOver as error:
        on = how_to_go_on(found, request.view)
        raise NotOver(f"{error}; {on}, or add --partial to export what is there") from None
    now = read(found.sessions, how_far, found.run_id)
    if flags["json"]:
        facts = {"run": found.name, "format": format, "path": request.files.shown(summary.path)} | counts(summary)
        base.print_json(facts | {"gone": request.view.gone, "partial": request.so_far})
    else:
        say(told(found, request, summary, now))
    tell_gone(request)
    return int(tell_blank_masks(found, request, summary))


def _refuse_unfit_flags(format: str, output: Path | str, flags: dict[str, Any]) -> None:
    """Raise `UsageError` for flags that do not go with the format, before the database is opened."""
    if _streams(output) and (format_named(format).folder or flags["json"]):
        *others, last = names_of_files()
        files = f"{', '.join(others)} or {last}"
        raise UsageError(f"-o -: only one file, {files} without --json, can go to standard output; give a name")
    for flag in own_flags():
        if _is_given(flags[flag]):
            require_taken(format, flag, flags[flag])
            if isinstance(flags[flag], str) and UNSTORABLE.search(flags[flag]):
                raise UsageError(f"--{flag.replace('_', '-')}: it has bytes that are no text in UTF-8")


def _refuse_results_of_other_run(found: Found, output: Path) -> None:
    """Raise `UsageError` if `output` is a file that a sam3-run writes into its folder, and that is another run's."""
    place = Path(os.path.realpath(output))
    names = {*RESULTS.values(), *(file_of(place.parent, name).name for name in MODULES)}
    if place.name not in names or not is_run_folder(place.parent):
        return
    there = read_run_file(place.parent)
    if there.run != found.name or not is_database_of(place.parent, found.settings):
        raise UsageError(f"{output} is for run {there.run} of {there.source}: choose another -o for {found.name}")


def _is_given(value: object) -> bool:
    return value is not None and value is not False


def _streams(output: Path | str) -> bool:
    return str(output) == "-"


def _request(found: Found, format: str, output: Path | str, flags: dict[str, Any]) -> ExportRequest:
    """Make the request from the flags. Raises `UsageError` for a threshold below the run's score floor."""
    view = view_of(found)
    chosen = choice(view, flags["threshold"], flags)
    if flags["masks"] is None and found.folder is not None:
        flags = flags | {"masks": found.folder / RESULTS["masks"]}
    files = _files(found, output, force=flags["force"])
    return ExportRequest(
        view=view,
        choice=chosen,
        out=files.named,
        gone=flags["all"],
        partial=flags["partial"],
        targets=files,
        jobs=flags["jobs"],
        only=flags["only"],
        chosen=None if flags["rows"] is None else chosen_rows(found, view, flags["rows"]),
        rows_file=flags["rows"],
        command=spelled_export(found, format, chosen.typed(view), flags),
        **_own(format, flags),
    )


def spelled_export(found: Found, format: str, chosen: Sequence[str], flags: Mapping[str, Any]) -> str:
    """The sam3-export that makes the same content again. `chosen` are the flags of its choice of instances.

    It lacks where to write and how, so that the same export gives the same bytes wherever it goes. It lacks the
    database, too, whose URL may hold a password.
    """
    words = ["sam3-export", found.spelled, "--format", format, *chosen]
    for flag, value in flags.items():
        if flag in ("threshold", *OTHERS, *NOT_OF_CONTENT) or not _is_given(value):
            continue
        name = "--" + flag.replace("_", "-")
        for each in value if isinstance(value, tuple) else (value,):
            words += [name] if each is True else [name, str(each)]
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for the shell; bytes that are no text, as names of files may have, are written like bash's $'\\xff'."""
    if not UNSTORABLE.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{storable(plain)}'"


def _files(found: Found, output: Path | str, *, force: bool) -> Targets:
    if isinstance(output, str):
        return BucketOutput(output, Inputs(found.sessions), force=force)
    return StandardOutput(output) if _streams(output) else Targets(output, Inputs(found.sessions), force=force)


def _own(format: str, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that only this format has: fields of the request, and the rest as its `own`."""
    given = {flag: flags[flag] for flag in format_named(format).takes if _is_given(flags[flag])}
    fields = {flag: value for flag, value in given.items() if flag in ExportRequest.__dataclass_fields__}
    return fields | {"own": {flag: value for flag, value in given.items() if flag not in fields}}


@contextmanager
def telling_how_to_go_on(found: Found, anew: Path | str | None) -> Iterator[None]:
    """If the block is interrupted, say what the same command again does: it continues, or writes the file `anew` again.

    Turns the error of a database that is away for too long into `Unreachable`.
    """
    try:
        with interruptible(resumes=anew is None):
            yield
    except DBAPIError as error:
        if not passes(error):
            raise
        left = "goes on from here" if anew is None else f"begins {anew} anew"
        said = describe_failure(error, found.settings.database_url)
        raise Unreachable(f"{said}; once it answers, the same command again {left}") from None


@contextmanager
def interruptible(*, resumes: bool) -> Iterator[None]:
    """Turn Ctrl-C into exit code 130; if the work `resumes`, say that the same command continues it."""
    try:
        yield
    except KeyboardInterrupt:
        if resumes:
            say("Next: the same command again goes on from here")
        raise click.Abort from None  # exit code 130; for a KeyboardInterrupt click would print an empty line, too


def tell_gone(request: ExportRequest) -> None:
    """Say how many rows an edited source no longer has, and whether it was read to its end."""
    view, source = request.view, place.name(request.view.source.path)
    if view.gone and not request.gone:
        say(f"{counted(view.gone, 'row')} no longer in {source} left out; --all keeps them at the end")
    if view.load > 1 and not view.source_ended and view.source_rows < view.images:  # with --limit it may reach all
        say(f"warning: {source} was read again in part only: rows that it did not reach come last, in their old order")


def how_to_go_on(found: Found, view: RunView) -> str:
    """What the user can do so that the run gets over."""
    if view.state == RunState.CANCELLING:
        return f"finish its cancel (sam3-cancel {found.argument})"
    if found.folder is not None:
        return "let the same sam3-run command finish it"
    if view.state == RunState.LOADING:
        return "let its sam3-enqueue finish, or run the same one again if it was killed"
    if (why := read(found.sessions, pause_of, found.run_id)) is not None:  # to wait would be in vain
        return f"it is paused {why}: let it go on (sam3-resume {found.argument}) and wait"
    return f"wait (sam3-status {found.argument} --wait)"


def told(found: Found, request: ExportRequest, summary: Summary, now: SoFar) -> str:
    """For people, such as `faces.json: 176 images, 203 instances; 176 of 768 images so far`."""
    parts = [
        f"{request.files.shown(summary.path)}: {counted(summary.images, 'image')}, "
        f"{counted(summary.instances, 'instance')}"
    ]
    parts += summary.told
    if summary.left_out:
        parts.append(f"{counted(summary.left_out, 'instance')} without a pixel left out")
    if request.so_far:
        parts.append(str(now))
    elif now.cancelled:
        again = "the same sam3-run command with --retry-failed" if found.folder else f"sam3-retry {found.argument}"
        parts.append(f"{counted(now.cancelled, 'image')} cancelled before: {again} takes them up again")
    return "; ".join(parts)


def export(found: Found, request: ExportRequest, format: str) -> Summary:
    """Write one format and show the progress. Raises `NotOver`, before a file is written, if the run is not over and
    `request.partial` is not set."""
    require_libraries(format)
    wanted = format_named(format)
    _require_own_places(found, request, format)
    if wanted.origin_beside:
        check_origin(request.files, request.out)
    with Meter(f"exporting {format}", "images") as meter, rarely_collected():
        read(found.sessions, require_exportable, found.run_id, partial=request.partial)
        images = read_images(found.sessions, request)
        summary = wanted.write(request, images, lambda done: meter.tell(done, request.rows))
    if wanted.origin_beside:
        write_origin(request, format, summary)
    elif not wanted.folder:
        remove_origin(request)
    return summary


def _require_own_places(found: Found, request: ExportRequest, format: str) -> None:
    """Raise `UsageError` if two images would get one file."""
    declared = format_named(format).place
    places = None if declared is None else declared(request)
    if places is None:
        return
    paths = partial(done_paths, found.sessions, found.run_id)
    root = request.view.source.root
    match sharing(paths, lambda path: str(places.of(path)), root, once=places.once):
        case (one, other) if location.is_same(root, one, other):
            rows = "is in two rows with different prompts or boxes" if one == other else f"and {other} are one image"
            raise UsageError(f"{one} {rows}, and {format} would have one file for both: give it all of them in one row")
        case (one, other):
            cure = " or use --name with {name}" if format == "png" else ""
            raise UsageError(f"{one} and {other} would both be {places.of(one)}: rename one of them{cure}")


def counts(summary: Summary) -> dict[str, int]:
    """The numbers of a summary, for JSON."""
    return {
        "images": summary.images,
        "instances": summary.instances,
        "files": summary.files,
        "left_out": summary.left_out,
        "kept": summary.kept,
        "blank_masks": summary.blank_masks,
    }
