"""Turns the objects of a part of a bucket, or those that match a pattern, into rows. Opens no object.

Which ones are images is said by their names alone: to look at first bytes would be a request for each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from db.intake import KnownRun, NewRow
from producer.layout import EXPORT_RECORD, MASKS_RECORD
from producer.sources import place
from producer.sources.cells import one_line
from producer.sources.columns import Columns
from producer.sources.folder import refuse_flags_of_files
from producer.sources.looking import same_files
from producer.sources.pattern import Pattern
from producer.sources.rows import row_of_file
from producer.sources.selection import IMAGE, OURS, Tally, told_left_out, verdict_on_name
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RecordedRow, RowSource, Survey
from workers.errors import UsageError
from workers.inference import buckets, urls
from workers.inference.formats import FORMATS


@dataclass(frozen=True)
class _Listed:
    """One object: its path below the source's root, and when it was written (nanoseconds since 1970)."""

    path: str
    mtime_ns: int


class BucketSource(RowSource):
    """The images of a part of a bucket as rows, in the order in which the server lists them.

    Other objects are left out, also what our exports wrote there; `left_out` counts them by reason after each survey.
    Memory does not grow with the number of objects.
    """

    kind = "bucket"
    files_seen = True
    columns = Columns(("path",), "path", None)
    confined = False
    follow_symlinks = False

    def __init__(self, url: str, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        self.place, self._shown = place.absolute(url), one_line(url)
        refuse_flags_of_files(self._shown, self.kind, options)
        self._pattern = None
        self.root = self.place
        if place.is_pattern(self.place):
            self.root, self._pattern = place.fixed(self.place), Pattern(Path(urls.split(self.place)[1]))
        self._exported = set[str]()  # folders with a record of an export, as far as they were listed
        tally = Tally()
        if next(self._images(tally), None) is None:
            there = f"; left out: {told_left_out(tally.left_out)}" if tally.left_out else ""
            empty = "matches no images" if self._pattern else "no images below it"
            names = f"give a part of a bucket with {', '.join(FORMATS[:-1])} or {FORMATS[-1]} images"
            raise UsageError(f"{self._shown}: {empty}{there}; {names}")

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        """Never: it reads no path of this machine."""
        return False

    @property
    def named_columns(self) -> dict[str, str]:
        return {}

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Always false: only a listing tells whether there are new objects."""
        return False

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Count the images. `continues` is always false: a new object may come anywhere in the order."""
        while True:
            count, newest, tally, exported = 0, 0, Tally(), len(self._exported)
            for image in self._images(tally):
                count, newest = count + 1, max(newest, image.mtime_ns)
            if len(self._exported) == exported:  # else a record may have come after objects that it speaks of
                break
        self.left_out = tally.left_out
        return Survey(size=count, mtime_ns=newest, sha256=None, rows=count, continues=False)

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The images after the first `skip`; a key that cannot be recorded becomes a rejected row."""
        return (row_of_file(image.path, self._shown) for image in islice(self._images(), skip, None))

    def holds(self, known: KnownRun, recorded: Sequence[RecordedRow]) -> bool:
        """Whether the recorded rows are objects of this part of the bucket, by path and size."""
        return same_files(recorded, self.root)

    def _images(self, tally: Tally | None = None) -> Iterator[_Listed]:
        for path, size, mtime_ns in self._objects():
            folder, _, name = path.rpartition("/")
            if name in (MASKS_RECORD, EXPORT_RECORD):
                self._exported.add(folder)
            if self._pattern is not None and not self._pattern.takes(path, folder=False):
                continue
            verdict = verdict_on_name(path)
            if self._exported and self._is_exported(path):
                verdict = OURS
            if verdict == IMAGE:
                yield _Listed(path, mtime_ns)
            elif tally is not None and size:  # an empty object without such a name stands for a folder
                tally.add(verdict, path)

    def _is_exported(self, path: str) -> bool:
        above = (str(folder) for folder in PurePosixPath(path).parents)
        return any(("" if folder == "." else folder) in self._exported for folder in above)

    def _objects(self) -> Iterator[tuple[str, int, int]]:
        try:
            yield from buckets.objects(self.root)
        except ValueError as error:
            cure = "give that object another key, or give a list of the others"
            raise UsageError(f"{self._shown}: {error}; {cure}") from None
        except OSError as error:
            raise place.unreadable(self._shown, error) from None
