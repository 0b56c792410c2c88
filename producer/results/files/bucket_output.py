"""Writes an export to a bucket instead of a disk, each object whole or not at all. Knows no format.

A bucket has no folders, links or locks, and nothing can be appended to an object. So each object that we put carries
marks beside its content: the run, and the digest of what it was made from. Somebody else's object has none.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from producer.layout import OBJECT_DIGEST, OBJECT_RUN
from producer.results.files.inputs import Inputs
from producer.results.files.marks import made_by_export
from producer.results.files.targets import Recognise, Signs, Targets
from workers.errors import UsageError
from workers.places import buckets
from workers.places.buckets import Version
from workers.places.urls import Unanswered

MANIFEST_BYTES = 1 << 20  # of an object that is read whole


class BucketOutput(Targets):
    """Puts the file that an export writes at the place `url`, or the files of a folder below it.

    An existing object is replaced only if an export of ours made it and no run reads it, or with `force`, and only if
    it is still the same when the new one is complete.
    """

    links = False
    waiting = 8  # as an answer takes so much longer than that of a disk

    def __init__(self, url: str, inputs: Inputs | None = None, *, force: bool = False) -> None:
        url = url.rstrip("/")
        super().__init__(Path(url.rpartition("/")[2]), inputs, force=force)
        self.url = url

    def shown(self, path: Path) -> str:
        """The URL of a file of the export."""
        return self.url if path == self.named else f"{self.url}/{path.relative_to(self.named).as_posix()}"

    def beside(self, path: Path) -> tuple[Targets, Path]:
        above, _, name = self.shown(path).rpartition("/")
        folder = BucketOutput(above, self._inputs, force=self._force)
        return folder, folder.named / name

    def look_up(self, paths: Sequence[Path]) -> None:
        """Ask the database once which of these objects are images of a run."""
        images = {} if self._force else self._inputs.images_among([self.shown(path) for path in paths])
        self._no_images = frozenset(path for path in paths if self.shown(path) not in images)

    def read(self, path: Path) -> bytes | None:
        with self._told_faults(path):
            found = buckets.reader(self.shown(path))
            return None if found is None else found[1].read(MANIFEST_BYTES)

    def matching(self, pattern: str) -> Iterator[Path]:
        with self._told_faults(self.named):
            names = [name for name, _, _ in buckets.objects(self.url) if "/" not in name and fnmatchcase(name, pattern)]
        return (self.named / name for name in names)

    def folds_names(self) -> bool:
        return False

    def signs(self, run: str, of_format: Callable[[], Signs]) -> Signs:
        return _Marks(self, run)

    def marks(self, path: Path) -> dict[str, str]:
        """The marks of the object; empty if there is none, or it is not ours."""
        with self._told_faults(path):
            found = buckets.marks(self.shown(path))
            return found[1] if found is not None and OBJECT_DIGEST in found[1] else {}

    def put(self, path: Path, content: bytes, digest: str, signs: Signs) -> None:
        """Put an object with its marks: at first as if there were none, since that takes one request only."""
        assert isinstance(signs, _Marks)
        put = partial(
            buckets.put, self.shown(path), content, marks={OBJECT_RUN: quote(signs.run), OBJECT_DIGEST: digest}
        )
        with self._told_faults(path):
            if put(None) or put(self._replaceable(path, made_by_export)):
                return
        raise self._written_meanwhile(path)

    def check(self, path: Path, recognise: Recognise = made_by_export) -> None:
        """Raise `UsageError` if the object must not be written, or nothing can be written there."""
        self._replaceable(path, recognise)

    def check_folder(self, path: Path, *, make: bool = False) -> None:
        """Raise `UsageError` if the bucket cannot be had. A folder in it need not be made."""
        with self._told_faults(path):
            buckets.require_bucket(self.shown(path))

    def refuse_link(self, path: Path) -> None:
        """Does nothing: a bucket has no links."""

    @contextmanager
    def replacing(self, path: Path, recognise: Recognise = made_by_export) -> Iterator[Path]:
        """Yield the path of a temporary file, and put its content into the bucket if the block raises nothing."""
        known = self._replaceable(path, recognise)
        with tempfile.TemporaryDirectory(prefix="sam3-") as folder:
            temporary = Path(folder, "export")
            yield temporary
            with self._told_faults(path):
                if not buckets.put(self.shown(path), temporary, instead_of=known):
                    raise self._written_meanwhile(path)

    def remove(self, path: Path, recognise: Recognise) -> bool:
        """Remove an object that we made; return whether there was one. Others stay as they are."""
        with self._told_faults(path):
            if not self.marks(path) and not self._is_recognised(path, recognise):
                return False
            self._refuse_input(path)
            buckets.delete(self.shown(path))
            return True

    def _is_recognised(self, path: Path, recognise: Recognise) -> bool:
        found = buckets.reader(self.shown(path))
        return found is not None and _is_ours(found[1], recognise)

    def _replaceable(self, path: Path, recognise: Recognise) -> Version | None:
        """The version of the object that may be replaced; None if there is none. Raises `UsageError`."""
        with self._told_faults(path):
            found = buckets.marks(self.shown(path))
            if found is None:
                buckets.require_bucket(self.shown(path))
                return None
            version, marks = found
            self._refuse_input(path)
            if self._force or OBJECT_DIGEST in marks or self._is_recognised(path, recognise):
                return version
        raise self._not_replaced(path, "was not made by an export of ours")

    def _refuse_input(self, path: Path) -> None:
        if self._force:
            return
        url = self.shown(path)
        if run := self._inputs.run_of_source(url):
            raise self._not_replaced(path, f"is the input of run {run}")
        if path not in self._no_images and (run := self._inputs.images_among([url]).get(url)):
            raise self._not_replaced(path, f"is an image of run {run}")

    def _not_replaced(self, path: Path, what: str) -> UsageError:
        return UsageError(
            f"{self.shown(path)} {what}, so it is not replaced: choose another -o, or add --force to lose what it holds"
        )

    def _written_meanwhile(self, path: Path) -> UsageError:
        again = "if that is another export, wait for it and run the same command again; else name another -o"
        return UsageError(f"{self.shown(path)} was written by somebody else meanwhile: {again}")

    @contextmanager
    def _told_faults(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, PermissionError, Unanswered, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{self.shown(path)}: cannot write: {said}") from None


class _Marks:
    """The `Signs` of objects: the marks beside their content, which are gone when somebody else writes the object."""

    def __init__(self, output: BucketOutput, run: str) -> None:
        self._output, self.run = output, run

    def holds(self, file: Path, digest: str) -> bool:
        return self._output.marks(file).get(OBJECT_DIGEST) == digest

    def is_ours_to_remove(self, file: Path) -> bool:
        return self._output.marks(file).get(OBJECT_RUN) == quote(self.run)

    def sign(self, file: Path, digest: str, content: bytes) -> None:
        """Does nothing: `BucketOutput.put` puts the marks with the content."""

    def recognises(self, path: Path, file: BinaryIO) -> bool:
        return made_by_export(file)


def _is_ours(file: BinaryIO, recognise: Recognise) -> bool:
    """Whether the object is ours, or empty."""
    if not file.read(1):
        return True
    file.seek(0)
    return recognise(file)
