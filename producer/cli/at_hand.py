"""Keeps a source that is no file of this machine in one: what is piped into a command, and objects of a bucket.

The file is in the state folder, so that the same input again is the same source, and more input for the same run is a
source that has grown. Knows no rows.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import Any, BinaryIO

from db import private
from producer.layout import STDIN_SUFFIX
from producer.sources import place
from producer.sources.kinds import rows_below
from workers.errors import UsageError
from workers.inference.reading.formats import SUFFIXES
from workers.places import buckets
from workers.places.buckets import Version

STANDARD_INPUT = "-"  # how a source is spelled that is piped in
PIPED, FETCHED = "stdin", "fetched"  # folders in the state folder
BLOCK_BYTES = 1 << 20

NameOf = Callable[[str], str]  # SHA-256 of the content -> name of the file


@contextmanager
def at_hand(source: str, state_dir: Path, run: str | None, *, keep: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the source as something that can be opened here, and what that changes in the flags of the command.

    Standard input and objects of a bucket become files: a run of standard input has the name `run`, or one made from
    the content. Without `keep` the file is removed at the end of the block. Raises `UsageError` if there is nothing to
    read, or the file cannot be written.
    """
    if source == STANDARD_INPUT:
        with _folder(state_dir / PIPED, keep=keep) as folder:
            file = _kept(folder, _piped_in(), lambda digest: (run or f"stdin-{digest[:8]}") + STDIN_SUFFIX)
            kept = {} if keep else {"kept_at": place.absolute(str(state_dir / PIPED / file.name))}
            yield str(file), {"run": file.name.removesuffix(STDIN_SUFFIX), "base": Path.cwd()} | kept
        return
    is_object = place.is_object(source)
    names = [] if is_object else rows_below(source)
    if not (is_object or names):
        yield source, {}
        return
    url = place.absolute(source)
    with _folder(state_dir / FETCHED / sha256(url.encode()).hexdigest()[:16], keep=keep) as folder:
        if is_object:
            file = _kept(folder, _fetched(url), _called(url))
            yield str(file), {"copy_of": url, "base": place.folder(url)}
        else:
            base = place.fixed(url) if place.is_pattern(url) else url
            _keep_all(folder, base, names)
            yield str(folder), {"copy_of": url, "base": base}


@contextmanager
def _folder(kept: Path, *, keep: bool) -> Iterator[Path]:
    """The folder `kept`, or one that is removed at the end of the block."""
    with nullcontext(kept) if keep else TemporaryDirectory(prefix="sam3-") as folder:
        yield Path(folder)


def _called(path: str) -> NameOf:
    return lambda _: path.rpartition("/")[2]


def _keep_all(folder: Path, base: str, names: Sequence[str]) -> None:
    """Have these objects below the URL `base`, and no others, as files in the folder."""
    for name in names:
        _kept((folder / name).parent, _fetched(f"{base}/{name}"), _called(name))
    known = set(names)
    for path in folder.rglob("[!.]*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink()


def _kept(folder: Path, blocks: Iterator[bytes], name_of: NameOf) -> Path:
    """Write the blocks to a file in `folder`, and return it.

    A file that has this content already is left as it is: by its unchanged time the source is known as the same.
    """
    try:
        descriptor, new = mkstemp(dir=private.make_folder(folder), prefix=".new-")
        try:
            digest = sha256()
            with os.fdopen(descriptor, "wb") as file:
                for block in blocks:
                    file.write(block)
                    digest.update(block)
            kept = folder / name_of(digest.hexdigest())
            if not _holds(kept, digest.hexdigest()):
                os.replace(new, kept)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(new)
    except OSError as error:
        raise UsageError(f"the input cannot be kept in {folder}: {error.strerror}") from None
    return kept


def _piped_in() -> Iterator[bytes]:
    """The content of standard input. Raises `UsageError` if it is a terminal, or empty."""
    advice = "pipe the paths in, such as: find photos -name '*.jpg' | sam3-enqueue --source - --prompt person"
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"-: standard input is a terminal; {advice}")
    block = sys.stdin.buffer.read(BLOCK_BYTES)
    if not block:
        raise UsageError(f"-: standard input is empty; {advice}")
    while block:
        yield block
        block = sys.stdin.buffer.read(BLOCK_BYTES)


def _fetched(url: str) -> Iterator[bytes]:
    """The content of an object, part by part. Raises `UsageError` if it cannot be had, or changes meanwhile."""
    if url.lower().endswith(SUFFIXES):
        raise UsageError(f"{url}: is an image; give the part of the bucket that it is in, or a list of images")
    try:
        version, file = _opened(url)
        while block := file.read(BLOCK_BYTES):
            yield block
        if _opened(url)[0] != version:
            raise UsageError(f"{url} changed while it was read; run the same command again")
    except (OSError, ValueError) as error:
        raise place.unreadable(url, error) from None


def _opened(url: str) -> tuple[Version, BinaryIO]:
    found = buckets.reader(url)
    if found is None:
        raise UsageError(f"{url} changed while it was read; run the same command again")
    return found


def _holds(kept: Path, digest: str) -> bool:
    try:
        with kept.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False
