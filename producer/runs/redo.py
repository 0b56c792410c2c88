"""Finds images whose files changed since they were read, and makes images pending again. Opens no image."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Self

from db.redo import EndedImage, ended_images, last_chunk_before, redo_slice
from db.runs import RetryFilter, reopen, retryable_images
from db.session import Sessions, read, reading, write
from db.slices import paced
from db.states import OVER, RunState
from db.values import Redo
from db.views.run_views import RunGone, RunView, run_view
from db.views.status import progress
from producer.runs.operate import Tell, ignore, retry, settle
from producer.sources.looking import stat_files
from workers.cli.base import counted
from workers.errors import UsageError
from workers.places import location
from workers.places.location import FileSeen

LOOK_SECONDS = 20.0  # for a look at all files that the user did not ask for
PATIENCE_SECONDS = 120.0  # for each page, if the user asked for the look with --redo changed
PAGE_ROWS = 4000  # rows whose files are looked at together
SLICE = 1000  # images of one transaction


@dataclass(frozen=True)
class Changes:
    """How many files of a run's images have changed since they were read."""

    changed: int = 0
    missing: int = 0
    looked: int = 0  # number of files that were looked at
    images: int = 0  # number of images that are done or failed
    whole: bool = True  # whether all files that were read before were looked at

    def lines(self) -> list[str]:
        """Lines for the user; none if no file has changed."""
        if self.missing and self.missing == self.looked:
            return ["none of the images that were read is to be seen from here, so no change is (--no-check: no look)"]
        lines = []
        if self.changed:
            they, them = ("it was", "it") if self.changed == 1 else ("they were", "them")
            lines.append(
                f"{counted(self.changed, 'image')} changed since {they} read: --redo changed computes {them} again"
            )
        if self.missing:
            lines.append(f"{counted(self.missing, 'image')} read before, but gone from disk now")
        if not self.whole:
            lines.append(
                f"looked at {self.looked:,} of {self.images:,} images for changes; --redo changed looks at all"
            )
        return lines


def look_for_changes(sessions: Sessions, run_id: int, seconds: float = LOOK_SECONDS) -> Changes:
    """Compare the size and modification time of each file with those when it was read, for about `seconds` at most."""
    run, seen, end = _Run.of(sessions, run_id), Changes(), time.monotonic() + seconds
    if not run.ended:
        return seen
    seen = replace(seen, images=run.ended)
    for page in _pages(sessions, run, Redo.CHANGED):
        became = _compare(run, page, max(0.0, end - time.monotonic()))
        seen = replace(
            seen,
            changed=seen.changed + became.count("changed"),
            missing=seen.missing + became.count("missing"),
            looked=seen.looked + len(page) - became.count(None),
            whole=None not in became,
        )
        if not seen.whole:
            break
    return seen


def redo(sessions: Sessions, run_id: int, which: Redo, tell: Tell = ignore, tiling: str | None = None) -> int:
    """Make the images that `which` chooses pending again in new chunks; return how many these are.

    With `tiling` they are cut in this way from now on.

    An interrupted redo is continued by the same call: it takes no image twice. A cancelled run becomes active; its
    cancelled images stay cancelled until a retry. Raises `UsageError` for a run that is loading or being stopped, or if
    a file system does not answer.
    """
    if which == Redo.FAILED:
        return retry(sessions, run_id, RetryFilter(tiling=tiling), tell)
    settle(sessions, run_id)
    run = _Run.of(sessions, run_id)
    if run.view.state not in (RunState.ACTIVE, *OVER):
        raise UsageError(f"run {run.view.name} is {run.view.state}: --redo is for runs that are active or over")
    ids = _chosen(sessions, run, which, tell)
    slice_ = list(islice(ids, SLICE))
    if slice_ and run.view.state == RunState.CANCELLED:
        write(sessions, reopen, run_id)
    moved = 0
    while slice_:
        moved += paced(sessions, partial(write, sessions, redo_slice, run_id, slice_, run.last_chunk, tiling))
        slice_ = list(islice(ids, SLICE))
    return moved


def rehearse(sessions: Sessions, run_id: int, which: Redo, tell: Tell = ignore) -> int:
    """How many images `redo` would take if it were called now. Changes nothing; raises the same for their files."""
    if which == Redo.FAILED:
        return read(sessions, retryable_images, run_id, RetryFilter())
    return sum(1 for _ in _chosen(sessions, _Run.of(sessions, run_id), which, tell))


@dataclass(frozen=True)
class _Run:
    view: RunView
    ended: int  # number of images that are done or failed
    last_chunk: int  # id of the last chunk that a redo takes images from

    @classmethod
    def of(cls, sessions: Sessions, run_id: int) -> Self:
        with reading(sessions) as session:
            view = run_view(session, run_id, row_prompts=False)
            if view is None:
                raise RunGone
            images = progress(session, run_id).images
            last_chunk = last_chunk_before(session, run_id)
        return cls(view, images.ended, last_chunk)


def _chosen(sessions: Sessions, run: _Run, which: Redo, tell: Tell) -> Iterator[int]:
    """Ids of the images to compute again, in the order of their rows."""
    looked = 0
    for page in _pages(sessions, run, which):
        if which == Redo.CHANGED:
            became = _compare(run, page, PATIENCE_SECONDS)
            if None in became:
                silent = page[became.index(None)].path
                raise UsageError(
                    f"{silent}: does not answer; is a mount lost? The same command again goes on from here"
                )
            yield from (image.id for image, what in zip(page, became, strict=True) if what == "changed")
        else:
            yield from (image.id for image in page)
        looked += len(page)
        tell(looked, max(looked, run.ended))


def _pages(sessions: Sessions, run: _Run, which: Redo) -> Iterator[list[EndedImage]]:
    """The images that `which` chooses, one range of rows at a time, so that no query takes long."""
    for first in range(1, run.view.images + 1, PAGE_ROWS):
        rows = range(first, first + PAGE_ROWS)
        if page := read(sessions, ended_images, run.view.id, which, rows, run.last_chunk):
            yield page


def _compare(run: _Run, page: list[EndedImage], seconds: float) -> list[str | None]:
    """For each image whether its file is same, changed, missing or unreadable; None without an answer in time."""
    places = [location.place(run.view.source.root, image.path) for image in page]
    seen = stat_files(places, seconds)
    return [_compare_one(image, seen.get(place)) for image, place in zip(page, places, strict=True)]


def _compare_one(image: EndedImage, seen: FileSeen | OSError | None) -> str | None:
    match seen:
        case None:
            return None
        case FileNotFoundError() | NotADirectoryError():
            return "missing"
        case OSError():
            return "unreadable"
    same = (seen.size, seen.mtime_ns) == (image.file_size, image.file_mtime_ns)
    return "same" if same else "changed"
