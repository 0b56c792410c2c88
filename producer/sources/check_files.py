"""Checks whether some of an input's images exist, before a million rows are recorded that would all fail.

Waits only a few seconds for a disk that does not answer. Opens no image, and knows no SQL.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import unquote

from producer.sources import place
from producer.sources.hints import shell_path
from producer.sources.looking import in_time, stat_files
from producer.sources.rows.cells import escaped, quoted
from producer.sources.source import RowSource
from workers.errors import UsageError
from workers.inference.reading.formats import SUFFIXES
from workers.places import location

LOOK_SECONDS = 5.0
FOLDERS_AT_MOST = 1000  # that are searched for the folder that the paths start from
UNICODE_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")

_REFUSALS = (PermissionError, location.Unanswered)  # of a server: it, or the rights of this machine, are the reason

Value = TypeVar("Value")


def check_files(source: RowSource, paths: Sequence[str], say: Callable[[str], None]) -> None:
    """Check these paths of the source's rows. Raises `UsageError`, with the likeliest cure, if no file exists.

    If only some files are missing, or there is no answer for some, `say` gets a warning.
    """
    at = {path: location.place(source.root, path) for path in paths}
    seen = look(list(at.values()))
    looked = f"{len(at):,} images looked at"
    missing = [path for path in at if isinstance(seen.get(at[path]), FileNotFoundError | NotADirectoryError)]
    if missing and len(missing) == len(at):
        raise UsageError(_none_there(source, missing[0], at[missing[0]], len(at)))
    refused = {path: error for path in at if isinstance(error := seen.get(at[path]), _REFUSALS)}
    if refused and len(refused) == len(at) and all(map(location.is_url, at.values())):
        path, error = next(iter(refused.items()))
        raise UsageError(
            f"{escaped(source.place)}: none of {looked} can be had: the first would be {location.shown(at[path])}"
            f": {error.strerror}; if only the workers may read them: --no-check"
        )
    if missing:
        say(f"warning: {len(missing):,} of {looked} are not there, such as {quoted(at[missing[0]])}")
    unknown = [path for path in at if path not in missing and seen.get(at[path], TimeoutError()) is not None]
    if unknown:
        error = seen.get(at[unknown[0]])
        why = "no answer" if error is None else error.strerror
        say(f"warning: {len(unknown):,} of {looked} could not be looked for ({quoted(at[unknown[0]])}: {why})")


def look(paths: Sequence[str]) -> dict[str, OSError | None]:
    """For each path None if a file is there, else the error. Paths without an answer in time are left out."""
    seen = stat_files(paths, LOOK_SECONDS)
    return {path: found if isinstance(found, OSError) else None for path, found in seen.items()}


def _none_there(source: RowSource, path: str, tried: str, looked: int) -> str:
    root = escaped(source.root)
    start = f"the {source.kind}'s folder" if source.root == place.folder(source.place) else root
    start = f"--image-root {root}" if source.confined else start
    origin = "" if not location.is_relative(path) else f" (relative paths start at {start})"
    cures: list[str] = []
    cure = "check the bucket and the keys of its objects"
    if not location.is_url(tried):
        in_time(lambda: cures.extend(islice(likely_cures(source, path), 1)), LOOK_SECONDS)
        cure = _spelling_hint(path) + "check the paths, or give the folder that they start from with --image-root"
    cure = cures[0] if cures else cure
    none = f"none of {looked:,} images looked at is there" if looked > 1 else "its image is not there"
    return (
        f"{escaped(source.place)}: {none}: the first would be {location.shown(tried)}{origin}; "
        f"{cure}; if only the workers see the images: --no-check"
    )


def _spelling_hint(path: str) -> str:
    """What may be wrong with the spelling of a path whose file was found nowhere; empty if nothing is conspicuous."""
    if re.match(r"[A-Za-z]:[\\/]", path):
        return f"{path[:2]} is a drive of Windows, which has another path here; "
    if "\\" in path:
        return "the paths are written with backslashes, as on Windows; "
    if re.search("%[0-9A-Fa-f]{2}", path):
        return "the paths are written as in a URL; "
    return "~ is the home folder only in a shell; " if path.startswith("~") else ""


def likely_cures(source: RowSource, path: str) -> Iterator[str]:
    """What the user can do so that the missing file `path` is found, the likeliest cure first. Each was tried here."""
    root, bases = source.root, [str(folder) for folder in _bases(source)]
    rewritten = list(_rewritten(source, path))
    longer = [(path + suffix, f"add {suffix} to the paths") for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES))]
    for spelled, advice in (*rewritten, *longer):
        if location.exists(location.place(root, spelled)):
            yield f"{escaped(spelled)} is there: {advice}"
    for spelled, advice in ((path, ""), *rewritten, *longer):
        base = _first_with(bases, spelled) if location.is_relative(spelled) else None
        if base is not None:
            yield f"{advice and advice + ', and '}give --image-root {shell_path(base)}"
    for spelled, advice in ((path, ""), *rewritten):
        parts = spelled.split("/")
        for cut in range(1, len(parts)):
            base = _first_with([root, *bases], "/".join(parts[cut:]))
            if base is not None:
                there, gone = location.place(base, "/".join(parts[cut:])), "/".join(parts[:cut]) or "/"
                write = f"{advice and advice + ', then '}write {quoted(base)} for {quoted(gone)} in them"
                yield f"{escaped(there)} is there: the {source.kind}'s paths begin elsewhere; {write}"


def _rewritten(source: RowSource, path: str) -> Iterator[tuple[str, str]]:
    """Other spellings of a path, each with what to do if that spelling is right."""
    spelled, advice = path, []
    if "%" in path:
        spelled = unquote(spelled)
        advice.append("decode the paths, which are written as in a URL")
        yield spelled, advice[0]
    if drive := re.match(r"([A-Za-z]):(?:[\\/]|.*\\)", spelled):
        spelled = spelled[2:]
        advice.append(f"leave out {drive[1]}:")
    if "\\" in spelled:
        spelled = spelled.replace("\\", "/")
        advice.append(source.advice_on_backslashes())
    if spelled.startswith("~"):
        spelled = os.path.expanduser(spelled)
        advice.append("write the home folder instead of ~")
    if advice:
        yield spelled, " and ".join(advice)
    if drive:  # where Windows' subsystem for Linux mounts its drives
        mounted = f"/mnt/{drive[1].lower()}"
        yield mounted + spelled, " and ".join([f"write {mounted} for {drive[1]}:", *advice[1:]])
    yield from _same_letters(path)


def _same_letters(path: str) -> Iterator[tuple[str, str]]:
    """Spellings of a path that look the same; é is one character or two, as older Macs wrote it."""
    for form in UNICODE_FORMS:
        if (spelled := unicodedata.normalize(form, path)) != path:
            yield spelled, f"it only looks the same; write the paths' letters in Unicode's form {form}"


def _bases(source: RowSource) -> Iterator[Path]:
    """Folders that the relative paths may start from, the nearest first."""
    near = list(dict.fromkeys((*_folder(source), Path.cwd())))
    yield from near
    beside = [folder for folder in (*near, *(of.parent for of in _folder(source))) if folder != folder.parent]
    for folder in dict.fromkeys(beside):
        yield from islice(_folders_in(folder), FOLDERS_AT_MOST)
    yield from (above for folder in (Path(source.root), *near) for above in folder.parents)


def _folder(source: RowSource) -> list[Path]:
    """The folder of the source, if that is on this machine."""
    return [] if place.is_url(source.place) else [Path(place.folder(source.place))]


def _folders_in(folder: Path) -> Iterator[Path]:
    """The folders directly in `folder`, then the folders in those."""
    children = sorted(_subfolders(folder))
    yield from children
    for child in children:
        yield from sorted(_subfolders(child))


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.name[0] != "." and entry.is_dir()]
    except OSError:
        return []


def _first_with(bases: Sequence[str], path: str) -> str | None:
    return next((base for base in bases if location.exists(location.place(base, path))), None)
