"""Decides which entries below a folder are images to segment, and why the others are left out. Decodes nothing.

A file is an image if its suffix says so or if its first bytes say so. A file with an image's suffix and other content
is taken, too: its user meant it as an image, so it is recorded and fails with a reason. The same holds for Parquet
files, where these are wanted.
"""

import errno
import os
from collections.abc import Collection, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from producer.layout import (
    EXPORT_RECORD,
    LINKS,
    MASK_HEAD_BYTES,
    MASKS_RECORD,
    RESULTS,
    TABLE_TAIL_BYTES,
    is_mask,
    is_run_file,
    is_table,
)
from producer.sources.pattern import Pattern
from producer.sources.rows.cells import escaped
from workers.cli.base import RUN_FILE
from workers.inference.reading.formats import (
    CAMERA_RAW_SUFFIXES,
    HEAD_BYTES,
    HEIC,
    HEIC_EXTRA,
    SUFFIXES,
    VIDEO,
    image_format,
    other_format,
)

# Verdicts. Folders are entered, and of the others those are taken that are wanted; the rest are reasons.
IMAGE, PARQUET, ROWS, FOLDER = "image", "Parquet file", "file with rows", "folder"
HIDDEN = "hidden"
TRASH = "in a trash or thumbnail folder"
OURS = "from sam3-run or sam3-export"
OUTPUT = "in the output folder"
LINK = "not followed"
BROKEN = "link to nothing"
CIRCLE = "in a circle of links"
UNREADABLE = "unreadable"
SPECIAL = "pipe, socket or device"
NO_IMAGE, NO_PARQUET = "not an image", "not a Parquet file"
NO_ROWS = "without rows"
NAMELESS = "without an image's suffix"
PARQUET_MAGIC = b"PAR1"  # https://parquet.apache.org/docs/file-format/
PARQUET_SUFFIXES = (".parquet", ".pq")
_TEXT = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".list", ".lst")
ROWS_SUFFIXES = (*_TEXT, *(f"{suffix}.gz" for suffix in _TEXT))  # of files of text that may have rows
_ADVICE = dict.fromkeys(
    (PARQUET, HIDDEN, NO_ROWS, TRASH, OURS, OUTPUT, BROKEN, CIRCLE, SPECIAL, NO_IMAGE, NO_PARQUET), ""
) | {
    NAMELESS: "if they are images, give a list of them",
    LINK: "--follow-symlinks takes in what such links lead to",
    UNREADABLE: "make it readable for this user",
    HEIC: f"{HEIC_EXTRA}, or convert to JPEG",
    VIDEO: "save the frames that you want as images",
}
_ADVICE_ON_FORMATS = "convert to JPEG"

_TRASH_FOLDERS = frozenset(
    (
        *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),  # made by network storage
        *("$recycle.bin", "recycler", "system volume information", "__macosx", "lost+found"),
    )
)
_KNOWN_AT_MOST = 100_000  # verdicts by content that are remembered, so that a file is not opened a second time


@dataclass(frozen=True)
class LeftOut:
    """Files of a folder that are left out for the same reason. An unreadable folder counts as one file."""

    reason: str
    count: int
    example: str  # path below the folder


class Tally:
    """Counts the files that are left out, by reason, with one example of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, reason: str, path: str, count: int = 1) -> None:
        if count:
            self._counts[reason] = self._counts.get(reason, 0) + count
            self._examples[reason] = min(path, self._examples.get(reason, path))

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The most frequent reason first; files in the output folder come last, as users expect those."""
        ordered = sorted(self._counts.items(), key=lambda item: (item[0] == OUTPUT, -item[1], item[0]))
        return tuple(LeftOut(reason, count, escaped(self._examples[reason])) for reason, count in ordered)


def told_left_out(left_out: Sequence[LeftOut]) -> str:
    """For people, such as `2 JPEG XL (1.jxl; convert to JPEG), 1 hidden (.cache/a.jpg)`."""
    advised = [(one, _ADVICE.get(one.reason, _ADVICE_ON_FORMATS)) for one in left_out]
    return ", ".join(
        f"{one.count:,} {one.reason} ({one.example}{'; ' + advice if advice else ''})" for one, advice in advised
    )


class Selection:
    """Judges the entries of folders below `top`. `exclude`, a path below `top`, names a folder that is not entered.

    With a `pattern` other entries than those that it takes are neither taken nor counted. `wanted` are the verdicts of
    the files that are taken.
    """

    def __init__(
        self,
        top: str,
        exclude: str | None,
        follow_symlinks: bool,
        pattern: Pattern | None = None,
        wanted: Sequence[str] = (IMAGE,),
    ) -> None:
        self.top = os.path.join(top, "")
        self._exclude = exclude
        self._pattern = pattern
        self._wanted = wanted
        self._follow = follow_symlinks
        self._known: dict[str, str] = {}  # path -> verdict, of files that had to be opened
        self._with_masks: set[str] = set()  # folders to which PNGs were exported; users' pictures may be there too
        self._with_links: set[str] = set()  # folders in which an export has made links to images

    def taken(self, folder: str, tally: Tally | None) -> list[str]:
        """Sorted paths of the images and folders directly in `folder` ("" or "a/b/"); a folder ends with a slash.

        `tally` counts the entries that are left out, with all files below them. Raises `OSError` if `folder` cannot be
        read.
        """
        with os.scandir(self.top + folder) as scanned:
            entries = list(scanned)
        names = {entry.name for entry in entries}
        ours = self._ours(folder, names)
        masks = self._may_hold_masks(folder, names)
        links = any(map(folder.startswith, self._with_links))
        taken = []
        for entry in entries:
            path = folder + entry.name
            if self._pattern is not None and not self._pattern.takes(path, folder=self._is_folder(entry)):
                continue
            verdict = ours.get(entry.name) or self._judge(entry, path)
            if verdict == IMAGE and ((masks and self._is_mask(path)) or (links and entry.is_symlink())):
                verdict = OURS
            if verdict in self._wanted:
                taken.append(path)
            elif verdict == FOLDER:
                taken.append(f"{path}/")
            elif tally is not None:
                self._count(entry, path, verdict, tally)
        taken.sort()
        return taken

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        with suppress(OSError):
            return entry.is_dir(follow_symlinks=self._follow)
        return False

    def _judge(self, entry: os.DirEntry[str], path: str) -> str:
        name = entry.name
        if name[0] == "." or (name[0] == "_" and IMAGE not in self._wanted):
            return HIDDEN
        try:
            if entry.is_dir(follow_symlinks=self._follow):
                return TRASH if name.lower() in _TRASH_FOLDERS else FOLDER
            if entry.is_file():
                return self.of_file(path)
            if entry.is_dir():
                return LINK
            return SPECIAL if os.path.exists(entry) else _absent(name, BROKEN)
        except OSError as error:  # a link leads to nothing, or the content cannot be read
            return _absent(name, BROKEN if error.errno == errno.ELOOP else UNREADABLE)

    def of_file(self, path: str) -> str:
        """The verdict on an ordinary file. Raises `OSError` if it must be opened and cannot be."""
        if ROWS in self._wanted and path.lower().endswith(ROWS_SUFFIXES):
            return ROWS
        return IMAGE if path.lower().endswith(SUFFIXES) else self._by_content(path)

    def _by_content(self, path: str) -> str:
        verdict = self._known.get(path)
        if verdict is None:
            verdict = _verdict(path, self._head(path, HEAD_BYTES))
            if verdict == PARQUET and is_table(self._tail(path, TABLE_TAIL_BYTES)):
                verdict = OURS
            if len(self._known) < _KNOWN_AT_MOST:
                self._known[path] = verdict
        return verdict

    def _head(self, path: str, count: int) -> bytes:
        with self._opened(path) as descriptor:
            return os.read(descriptor, count)

    def _tail(self, path: str, count: int) -> bytes:
        with self._opened(path) as descriptor:
            return os.pread(descriptor, count, max(0, os.fstat(descriptor).st_size - count))

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        # O_NONBLOCK: if the file has become a pipe meanwhile, opening it must not wait for a writer.
        descriptor = os.open(self.top + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _ours(self, folder: str, names: Container[str]) -> dict[str, str]:
        """Name -> reason for entries of `folder` that are ours: files of a sam3-run, and the output folder."""
        ours: dict[str, str] = {}
        if RUN_FILE in names:
            with suppress(OSError):
                if is_run_file(self._head(folder + RUN_FILE, 1 << 20)):
                    ours = dict.fromkeys((RUN_FILE, *RESULTS.values()), OURS)
        if self._exclude is not None and os.path.dirname(self._exclude) == folder.rstrip("/"):
            ours[os.path.basename(self._exclude)] = OUTPUT
        return ours

    def _may_hold_masks(self, folder: str, names: Collection[str]) -> bool:
        """Whether each image of the folder must be opened, as some may be masks of ours. Notes what exports left here.

        Masks that were copied have no record above them: then the first PNG tells, or the first of all images, as masks
        may be called like JPEGs.
        """
        if MASKS_RECORD in names or EXPORT_RECORD in names:
            self._with_masks.add(folder)
        if EXPORT_RECORD in names:
            self._with_links.add(f"{folder}{LINKS}/")
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        first = {min(some) for some in (images, list(filter(_is_png, images))) if some}
        return any(map(folder.startswith, self._with_masks)) or any(self._is_mask(folder + name) for name in first)

    def _is_mask(self, path: str) -> bool:
        try:
            return is_mask(self._head(path, MASK_HEAD_BYTES))
        except OSError:  # the worker that reads the image will report the error
            return False

    def _count(self, entry: os.DirEntry[str], path: str, reason: str, tally: Tally) -> None:
        """Count an entry that is left out; of a folder count all files below it."""
        if not entry.is_dir(follow_symlinks=False):
            tally.add(reason, path)
            return
        below = [f"{path}/"]
        while below:
            folder = below.pop()
            try:
                with os.scandir(self.top + folder) as scanned:
                    entries = list(scanned)
            except OSError:
                tally.add(UNREADABLE, folder)
                continue
            folders = [f"{folder}{entry.name}/" for entry in entries if entry.is_dir(follow_symlinks=False)]
            tally.add(reason, f"{path}/", len(entries) - len(folders))
            below += folders


def verdict_on_name(path: str) -> str:
    """The verdict on a file that is not opened, by its path below the source alone."""
    *folders, name = path.split("/")
    if any(part.startswith(".") for part in (*folders, name)):
        return HIDDEN
    if any(folder.lower() in _TRASH_FOLDERS for folder in folders):
        return TRASH
    return _absent(name, NAMELESS)


def _absent(name: str, reason: str) -> str:
    """The verdict on an entry that cannot be read: what its suffix says; who reads it then reports the error."""
    if name.lower().endswith(SUFFIXES):
        return IMAGE
    return PARQUET if name.lower().endswith(PARQUET_SUFFIXES) else reason


def _verdict(path: str, head: bytes) -> str:
    if head.startswith(PARQUET_MAGIC) or path.lower().endswith(PARQUET_SUFFIXES):
        return PARQUET
    other = other_format(head)
    if other is not None:
        return other
    if image_format(head) is None:
        return NO_IMAGE
    return "camera raw" if path.lower().endswith(CAMERA_RAW_SUFFIXES) else IMAGE


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")
