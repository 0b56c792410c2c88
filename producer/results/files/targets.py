"""Writes files whole or not at all, and replaces only files that our exports made. Knows no format and no SQL."""

import fcntl
import hashlib
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from producer.results.files.inputs import Inputs
from producer.results.files.marks import made_by_export
from producer.results.files.names import folds_names
from producer.slugs import numbered
from workers.errors import UsageError

Recognise = Callable[[BinaryIO], bool]  # whether we made an existing file, so that it may be replaced

# Folders are opened only as a starting point of paths, so that they need not be readable.
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class Signs(Protocol):
    """How the files of a format show that they are ours and right."""

    def holds(self, file: Path, digest: str) -> bool:
        """Whether the file is whole and has the content of this digest."""

    def is_ours_to_remove(self, file: Path) -> bool:
        """Whether an export of this run wrote the file, and nobody has changed it."""

    def sign(self, file: Path, digest: str, content: bytes) -> None:
        """Is called just before the file gets this content."""

    def recognises(self, path: Path, file: BinaryIO) -> bool:
        """Whether the file, which is open at its start, may be replaced."""


class Targets:
    """The files that one command writes: the file `named` by its user, or files in the folder `named`.

    An existing file is replaced only if an export of ours made it and no run reads it, or with `force`. Symbolic links
    are followed in the path `named` itself, but never below it.
    """

    single = False  # whether there is one file only, so that a format cannot write several
    links = True  # whether a file may name another one of this machine
    waiting = 1  # how many files to look at and write at once, for each process that makes them

    def __init__(self, named: Path, inputs: Inputs | None = None, *, force: bool = False) -> None:
        self.named, self._force = named, force
        self._inputs = inputs or Inputs()
        self._no_images: frozenset[Path] = frozenset()  # paths that are no images of a run, as `look_up` found

    def shown(self, path: Path) -> str:
        """A file that was written, for messages."""
        return str(path)

    def beside(self, path: Path) -> "tuple[Targets, Path]":
        """What writes files beside `path`, a file that these targets write, and the path that this file has there.

        Links in `path` are followed, as when it is written; a link that has the name of a file beside it is not.
        """
        place = Path(os.path.realpath(path))
        return Targets(place.parent, self._inputs, force=self._force), place

    def look_up(self, paths: Sequence[Path]) -> None:
        """Ask the database once which of these files, which will be written, are images of a run."""
        there = [] if self._force else [path for path in paths if os.path.lexists(path)]
        images = self._inputs.images_among(there) if there else {}
        self._no_images = frozenset(there) - images.keys()

    def read(self, path: Path) -> bytes | None:
        """The content of a small file; None if there is none, or it cannot be read."""
        try:
            return path.read_bytes()
        except OSError:
            return None

    def matching(self, pattern: str) -> Iterator[Path]:
        """The files directly in the folder whose names match."""
        return self.named.glob(pattern)

    def folds_names(self) -> bool:
        """Whether the folder takes names for equal that differ only in case or Unicode normalisation."""
        with writing(self.named):
            return folds_names(self.named)

    def signs(self, run: str, of_format: Callable[[], Signs]) -> Signs:
        """How the files of an export of `run` are known as ours: as the format says."""
        return of_format()

    def put(self, path: Path, content: bytes, digest: str, signs: Signs) -> None:
        """Write a file, signed. Raises `UsageError` as `replacing` does."""
        with self.replacing(path, partial(signs.recognises, path)) as temporary:
            signs.sign(path, digest, content)
            temporary.write_bytes(content)

    def check(self, path: Path, recognise: Recognise = made_by_export) -> None:
        """Raise `UsageError` if `path` must not be written or removed. Changes nothing."""
        with writing(path), suppress(FileNotFoundError), self._folder_of(path, make=False) as (folder, place):
            self._judge(folder, place.name, path, recognise)

    def refuse_link(self, path: Path) -> None:
        """Raise `UsageError` if `path`, below `named`, is a symbolic link."""
        with writing(path), suppress(FileNotFoundError), self._folder_of(path, make=False) as (folder, place):
            _refuse_link(folder, place.name, path)

    def check_folder(self, path: Path, *, make: bool = False) -> None:
        """Raise `UsageError` if `path`, a folder for masks, cannot be made because a file or a link has its name."""
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file: masks need a folder; name another with -o")
        with writing(path), suppress(FileNotFoundError), self._folder_of(path / "any", make=make):
            pass

    def make_folder(self, path: Path) -> None:
        """Make a folder for masks and the folders above it. Raises `UsageError` as `check_folder` does."""
        self.check_folder(path, make=True)

    @contextmanager
    def replacing(self, path: Path, recognise: Recognise = made_by_export) -> Iterator[Path]:
        """Yield the path of a temporary file, which replaces `path` if the block raises nothing.

        Makes the folders above `path`. Raises `UsageError` if the file must not or cannot be written, or another
        process is writing it; no temporary file is left then.
        """
        with writing(path), self._folder_of(path, make=True) as (folder, place):
            self._judge(folder, place.name, path, recognise)
            # The name depends on the target only, so that the next export reuses the file that a killed one left.
            name = f".sam3-{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:32]}.part"
            with _held(folder, name, path):
                try:
                    yield place.with_name(name)
                    self._judge(folder, place.name, path, recognise)  # again, as the block may have taken hours
                    os.replace(name, place.name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with suppress(OSError):
                        os.unlink(name, dir_fd=folder)
                    raise

    def remove(self, path: Path, recognise: Recognise) -> bool:
        """Remove an ordinary file that we made; return whether there was one. Others stay as they are."""
        with writing(path), suppress(FileNotFoundError), self._folder_of(path, make=False) as (folder, place):
            found = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and _is_recognised(folder, place.name, recognise):
                self._judge(folder, place.name, path, recognise)
                os.unlink(place.name, dir_fd=folder)
                return True
        return False

    def link(self, path: Path, to: str, *, ours: bool) -> None:
        """Make `path` a symbolic link to the absolute path `to`; an ordinary file stays as it is.

        So a folder in which somebody has replaced the links with files can be written again. A link to something else
        is changed if we made the links of this folder (`ours`), or with `force`, and else refused with a `UsageError`.
        Makes the folders above.
        """
        with writing(path), self._folder_of(path, make=True) as (folder, place):
            try:
                found = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                os.symlink(to, place.name, dir_fd=folder)
                return
            if stat.S_ISDIR(found.st_mode):
                raise UsageError(f"{path} is a folder, where a link to {to} has to be: choose another -o")
            if stat.S_ISLNK(found.st_mode) and os.readlink(place.name, dir_fd=folder) != to:
                if not (ours or self._force):
                    raise UsageError(
                        f"{path} is a link that no export of ours made, so it is not changed: choose another -o, or "
                        "add --force"
                    )
                os.unlink(place.name, dir_fd=folder)
                os.symlink(to, place.name, dir_fd=folder)

    def unlink(self, path: Path) -> None:
        """Remove `path` if it is a symbolic link."""
        with writing(path), suppress(FileNotFoundError), self._folder_of(path, make=False) as (folder, place):
            if stat.S_ISLNK(os.stat(place.name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(place.name, dir_fd=folder)

    @contextmanager
    def _folder_of(self, path: Path, *, make: bool) -> Iterator[tuple[int, Path]]:
        """Open the folder of `path`; yield its descriptor and `path` without links. Raises `UsageError` for a link
        below `named`."""
        named = Path(os.path.realpath(self.named))
        place = named / path.relative_to(self.named)
        start = named.parent if place == named else named
        if make:
            start.mkdir(parents=True, exist_ok=True)
        above = place.relative_to(start).parts[:-1]
        folder = os.open(start, FOLDER)
        try:
            for depth, part in enumerate(above, start=1):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                _refuse_link(folder, part, self.named.joinpath(*above[:depth]))
                inner = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder, place
        finally:
            os.close(folder)

    def _judge(self, folder: int, name: str, path: Path, recognise: Recognise) -> None:
        _refuse_link(folder, name, path)
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{path} is a folder: name a file to write, such as {path / 'export'}")
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is not an ordinary file: name another one")
        if not self._force:
            self._refuse_what_is_not_ours(path, found, ours=_is_recognised(folder, name, recognise))

    def _refuse_what_is_not_ours(self, path: Path, found: os.stat_result, *, ours: bool) -> None:
        if run := self._inputs.source_of(found):
            what = f"is the input of run {run}"
        elif path not in self._no_images and (run := self._inputs.images_among([path]).get(path)):
            what = f"is an image of run {run}"
        elif ours:
            return
        else:
            what = "was not made by an export of ours"
        raise UsageError(
            f"{path} {what}, so it is not replaced: choose another -o, or add --force to lose what it holds"
        )


def _is_recognised(folder: int, name: str, recognise: Recognise) -> bool:
    """Whether the file is ours, or holds no data: it is empty, or has only zeros, as a power cut may leave it."""
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
        while block := file.read(1 << 16):
            if block.count(0) < len(block):
                file.seek(0)
                return recognise(file)
    return True


def _refuse_link(folder: int, name: str, path: Path) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise UsageError(
            f"{path} is a link to somewhere else: nothing is written through it; remove it, or choose another -o"
        )


@contextmanager
def _held(folder: int, name: str, path: Path) -> Iterator[None]:
    """Make or open the temporary file `name`, and lock it so that no other process writes `path` during the block."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o666, dir_fd=folder)
        try:
            _lock(file, path)
            if _is_at(folder, name, file):  # else the process that had the lock has just renamed the file: try again
                yield
                return
        finally:
            os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path}: another export is writing it; wait for that one, or name another file") from None
    except OSError:
        return  # a file system without locks


def _is_at(folder: int, name: str, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(file))
    except FileNotFoundError:
        return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` about `path` into a `UsageError` of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UsageError(f"{path}: cannot write: {reason}; choose another place or make room there") from error


def free_file(stem: str, suffix: str) -> str:
    """The path of an output file for a hint, quoted for the shell: a new file, or one that an export of ours made."""
    writable = os.access(Path(stem).parent, os.W_OK)
    begin = stem if writable else str(Path.home() / Path(stem).name)
    return shlex.quote(numbered(begin, lambda name: _is_foreign(Path(name + suffix))) + suffix)


def _is_foreign(path: Path) -> bool:
    try:
        Targets(path).check(path)
    except UsageError:
        return True
    return False
