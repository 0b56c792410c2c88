"""Turns the objects of a part of a bucket, or those that match a pattern, into rows. Decodes nothing.

Which ones are images is said by their names alone: to look at first bytes would be a request for each. Only below the
record of an export objects are asked for the marks of our own.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from db.intake import KnownRun, NewRow
from producer.layout import EXPORT_RECORD, MASK_HEAD_BYTES, MASKS_RECORD, OBJECT_DIGEST, is_mask
from producer.sources import place
from producer.sources.folder import refuse_flags_of_files
from producer.sources.looking import LOOKERS, same_files
from producer.sources.pattern import Pattern
from producer.sources.rows.cells import escaped
from producer.sources.rows.columns import PATHS_ALONE
from producer.sources.rows.rules import row_of_file
from producer.sources.selection import (
    IMAGE,
    OURS,
    PARQUET_SUFFIXES,
    ROWS_SUFFIXES,
    Tally,
    told_left_out,
    verdict_on_name,
)
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RecordedRow, RowSource, Survey
from producer.sources.walk import DELTA, delta
from workers.errors import UsageError
from workers.inference.reading.formats import FORMATS
from workers.places import buckets, urls
from workers.places.buckets import PAGE_OBJECTS

KNOWN_AT_MOST = 100_000  # answers that are remembered, so that an object is not asked for a second time


@dataclass(frozen=True)
class _Listed:
    """One object: its path below the source's root, its bytes, and when it was written (nanoseconds since 1970)."""

    path: str
    size: int
    mtime_ns: int


def rows_below(given: str) -> list[str]:
    """The files whose rows are the source `given`, as `BucketSource.rows_files` has them; none for a path."""
    return BucketSource(given).rows_files() if place.is_url(given) else []


@contextmanager
def told_faults(shown: str) -> Iterator[None]:
    """Turn what keeps a bucket from being listed into `UsageError`."""
    try:
        yield
    except ValueError as error:
        cure = "give that object another key, or give a list of the others"
        raise UsageError(f"{escaped(shown)}: {error}; {cure}") from None
    except OSError as error:
        raise place.unreadable(shown, error) from None


class BucketSource(RowSource):
    """The images of a part of a bucket as rows, in the order in which the server lists them.

    Other objects are left out, also what our exports wrote there; `left_out` counts them by reason after each survey.
    The constructor lists nothing. Memory does not grow with the number of objects.
    """

    kind = "bucket"
    files_seen = True
    columns = PATHS_ALONE
    confined = False
    follow_symlinks = False

    def __init__(self, url: str, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        self.place, self._shown = place.absolute(url), escaped(url)
        refuse_flags_of_files(self._shown, self.kind, options)
        self._pattern = None
        self.root = self.place
        if place.is_pattern(self.place):
            self.root, self._pattern = place.fixed(self.place), Pattern(Path(urls.split(self.place)[1]))
        self._exported = set[str]()  # folders with a record of an export, as far as they were listed
        self._known = dict[str, bool]()  # path -> whether an export wrote it, of objects that had to be asked for

    def rows_files(self) -> list[str]:
        """The files whose rows are the source: their paths below its root. Empty if there is an image: it is one then.

        A pattern that ends like `*.csv` names files of text, others Parquet files. Lists objects up to the first image.
        Raises `UsageError` if there is neither, or the bucket cannot be listed.
        """
        suffixes = ROWS_SUFFIXES if self.place.lower().endswith(ROWS_SUFFIXES) else PARQUET_SUFFIXES
        names, tally, has_images = list[str](), Tally(), False
        for one, verdict in self._judged(self._of_no_delta_table()):
            counts = re.search(r"(^|/)[._]", one.path) is None  # of files with rows, as for Spark
            if verdict == IMAGE:
                has_images = True
                if counts:
                    return []
            elif one.size:
                tally.add(verdict, one.path)
                if counts and one.path.lower().endswith(suffixes):
                    names.append(one.path)
        if not (names or has_images):
            raise self._without_images(tally)
        return names

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        """Never: it reads no path of this machine."""
        return False

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
        if not count:
            raise self._without_images(tally)
        self.left_out = tally.left_out
        return Survey(size=count, mtime_ns=newest, sha256=None, rows=count, continues=False)

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The images after the first `skip`; a key that cannot be recorded becomes a rejected row."""
        return (row_of_file(image.path, self._shown) for image in islice(self._images(), skip, None))

    def holds(self, known: KnownRun, recorded: Sequence[RecordedRow]) -> bool:
        """Whether the recorded rows are objects of this part of the bucket, by path and size."""
        return same_files(recorded, self.root)

    def _without_images(self, tally: Tally) -> UsageError:
        """The error for a source without any; `tally` counts what is there instead."""
        there = f"; left out: {told_left_out(tally.left_out)}" if tally.left_out else ""
        empty = "matches no images" if self._pattern else "no images below it"
        names = f"give a part of a bucket with {', '.join(FORMATS[:-1])} or {FORMATS[-1]} images"
        return UsageError(f"{self._shown}: {empty}{there}; {names}")

    def _images(self, tally: Tally | None = None) -> Iterator[_Listed]:
        for one, verdict in self._judged(self._objects()):
            if verdict == IMAGE:
                yield one
            elif tally is not None and one.size:  # an empty object without such a name stands for a folder
                tally.add(verdict, one.path)

    def _judged(self, objects: Iterator[_Listed]) -> Iterator[tuple[_Listed, str]]:
        """Objects that the pattern takes, each with the verdict on it."""
        while listed := list(islice(objects, PAGE_OBJECTS)):
            page = [one for one in listed if self._counts(one.path)]
            verdicts = {one.path: verdict_on_name(one.path) for one in page}
            doubtful = [path for path, verdict in verdicts.items() if verdict == IMAGE and self._is_below_record(path)]
            verdicts |= dict.fromkeys(self._ours_among(doubtful), OURS)
            yield from ((one, verdicts[one.path]) for one in page)

    def _counts(self, path: str) -> bool:
        """Whether the pattern takes the object. Notes records of exports."""
        folder, _, name = path.rpartition("/")
        if name in (MASKS_RECORD, EXPORT_RECORD):
            self._exported.add(folder)
        return self._pattern is None or self._pattern.takes(path, folder=False)

    def _is_below_record(self, path: str) -> bool:
        if not self._exported:
            return False
        above = (str(folder) for folder in PurePosixPath(path).parents)
        return any(("" if folder == "." else folder) in self._exported for folder in above)

    def _ours_among(self, paths: Sequence[str]) -> list[str]:
        """Paths that exports of ours wrote: users' images may lie beside them."""
        unknown = [path for path in paths if path not in self._known]
        with ThreadPoolExecutor(LOOKERS) as threads, told_faults(self._shown):
            found = dict(zip(unknown, threads.map(self._is_ours, unknown), strict=True)) if unknown else {}
        if len(self._known) < KNOWN_AT_MOST:
            self._known |= found
        return [path for path in paths if found.get(path, self._known.get(path, False))]

    def _is_ours(self, path: str) -> bool:
        """By the marks beside the content of an object that we put, or by the mark in a mask that was copied there."""
        url = f"{self.root}/{path}"
        if (found := buckets.marks(url)) is not None and OBJECT_DIGEST in found[1]:
            return True
        if not path.lower().endswith(".png") or (there := buckets.reader(url)) is None:
            return False
        return is_mask(there[1].read(MASK_HEAD_BYTES))

    def _objects(self) -> Iterator[_Listed]:
        with told_faults(self._shown):
            for path, size, mtime_ns in buckets.objects(self.root):
                yield _Listed(path, size, mtime_ns)

    def _of_no_delta_table(self) -> Iterator[_Listed]:
        """All objects. Raises `UsageError` if they are a Delta table's."""
        for one in self._objects():
            if DELTA in one.path.split("/"):
                raise delta(self._shown)
            yield one
