"""Writes an export to an object of a bucket instead of a file, whole or not at all. Knows no format."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from producer.results.marks import made_by_export
from producer.results.targets import Recognise, Targets
from workers.errors import UsageError
from workers.inference import buckets
from workers.inference.urls import Unanswered


class BucketOutput(Targets):
    """Puts the one file that an export writes, at the place `url`, whatever its name here is.

    An existing object is replaced only if an export of ours made it, or with `force`, and only if it is still the same
    when the new one is complete.
    """

    single = True

    def __init__(self, url: str, *, force: bool = False) -> None:
        super().__init__(Path(url.rpartition("/")[2]), force=force)
        self.url = url

    def shown(self, path: Path) -> str:
        return self.url

    def check(self, path: Path, recognise: Recognise = made_by_export) -> None:
        """Raise `UsageError` if the object must not be written, or nothing can be written there."""
        self._replaceable(recognise)

    @contextmanager
    def replacing(self, path: Path, recognise: Recognise = made_by_export) -> Iterator[Path]:
        """Yield the path of a temporary file, and put its content into the bucket if the block raises nothing."""
        known = self._replaceable(recognise)
        with tempfile.TemporaryDirectory(prefix="sam3-") as folder:
            temporary = Path(folder, "export")
            yield temporary
            with self._told_faults():
                if not buckets.put(self.url, temporary, instead_of=known):
                    raise UsageError(f"{self.url} was written by somebody else meanwhile: name another -o")

    def _replaceable(self, recognise: Recognise) -> str | None:
        """The version of the object that may be replaced; None if there is none. Raises `UsageError`."""
        with self._told_faults():
            found = buckets.reader(self.url)
            if found is None:
                return None
            version, file = found
            if self._force or not file.read(1) or (file.seek(0), recognise(file))[1]:
                return version
        raise UsageError(
            f"{self.url} was not made by an export of ours, so it is not replaced: choose another -o, or add --force "
            "to lose what it holds"
        )

    @contextmanager
    def _told_faults(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, PermissionError, Unanswered, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{self.url}: cannot write: {said}") from None
