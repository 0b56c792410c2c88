"""Keeps what is piped into a command in a file, so that the same command goes on with it. Knows no rows.

The file is in the folder `stdin` of the state folder and has the name of the run. So the same input again is the same
source, and more input for the same run is a source that has grown.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
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
    with nullcontext(state_dir / FOLDER) if keep else TemporaryDirectory(prefix="sam3-") as folder:
        place, name = _received(Path(folder), run)
        yield place, name


def _received(folder: Path, run: str | None) -> tuple[Path, str]:
    try:
        descriptor, new = mkstemp(dir=private.make_folder(folder), prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                digest = _copy(file)
            name = run or f"stdin-{digest[:8]}"
            place = folder / f"{name}{STDIN_SUFFIX}"
            if not _holds(place, digest):  # else it keeps its time, by which it is known to be unchanged
                os.replace(new, place)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(new)
    except OSError as error:
        raise UsageError(f"standard input cannot be kept in {folder}: {error.strerror}") from None
    return place, name


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
