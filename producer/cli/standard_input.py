"""Keeps what is piped into a command in a file, so that the same command goes on with it. Knows no rows.

The file is in the folder `stdin` of the state folder and has the name of the run. So the same input again is the same
source, and more input for the same run is a source that has grown.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import BinaryIO

from db import private
from producer.layout import STDIN_SUFFIX
from workers.errors import UsageError

STANDARD_INPUT = Path("-")  # how a source is spelled that is piped in
FOLDER = "stdin"
BLOCK_BYTES = 1 << 20


@contextmanager
def received(state_dir: Path, run: str | None, *, keep: bool) -> Iterator[tuple[Path, str]]:
    """Read standard input to its end; give the file that holds it and the name of its run.

    The name is `run`, or made from the content. Without `keep` the file is removed at the end of the block. Raises
    `UsageError` if nothing is piped in, or the file cannot be written.
    """
    with _told(state_dir):
        folder = private.make_folder(state_dir / FOLDER) if keep else None
        descriptor, new = tempfile.mkstemp(dir=folder, prefix=".new-", suffix=STDIN_SUFFIX)
    try:
        with _told(state_dir), os.fdopen(descriptor, "wb") as file:
            digest = _copy(file)
        name = run or f"stdin-{digest[:8]}"
        if folder is None:
            yield Path(new), name
            return
        place = folder / f"{name}{STDIN_SUFFIX}"
        with _told(state_dir):
            if not _holds(place, digest):  # else it keeps its time, by which it is known to be unchanged
                os.replace(new, place)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(new)
    yield place, name


@contextmanager
def _told(state_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"standard input cannot be kept in {state_dir}: {error.strerror}") from None


def _copy(file: BinaryIO) -> str:
    """Copy standard input, and return its SHA-256. Raises `UsageError` if it is a terminal, or empty."""
    advice = "pipe the paths in, such as: find photos -name '*.jpg' | sam3-enqueue --source - --prompt person"
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"-: standard input is a terminal; {advice}")
    digest, size = sha256(), 0
    while block := sys.stdin.buffer.read(BLOCK_BYTES):
        file.write(block)
        digest.update(block)
        size += len(block)
    if not size:
        raise UsageError(f"-: standard input is empty; {advice}")
    return digest.hexdigest()


def _holds(place: Path, digest: str) -> bool:
    try:
        with place.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False
