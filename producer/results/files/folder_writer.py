"""Writes many small files of one folder at once, each made by a function in a helper process. Knows no format.

Threads look at the files, since a network file system answers slowly, and helper processes make them, since that takes
most of the time.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from producer.results.files.helpers import Helpers, processes
from producer.results.files.marks import made_by_export
from producer.results.files.targets import Signs, Targets

Image = TypeVar("Image")
PAGE_IMAGES = 500  # images for which the database is asked at once whether their files would replace inputs
FEW = 8  # the first files are made in this process, which is quicker than to start a helper


@dataclass(frozen=True)
class Piece:
    """One file as it should be on disk."""

    target: Path
    digest: str  # of all that its content depends on
    make: Callable[..., bytes | None] | None  # makes the content, or None if it cannot; None: there should be no file
    given: tuple[Any, ...] = ()  # arguments of `make`, picklable
    after: Iterable[Path] = ()  # files with the next numbers: those that an earlier export left are removed
    here: bool = False  # `make` only reads, so that no helper is needed


def in_pages(
    targets: Targets, images: Iterable[Image], pieces: Callable[[Image], list[Piece]]
) -> Iterator[tuple[Image, list[Piece]]]:
    """Yield the images with their pieces, after asking for a page of them at once which files would replace an input of
    a run. This is quicker than to ask for each by itself."""
    left = iter(images)
    while page := [(image, pieces(image)) for image in itertools.islice(left, PAGE_IMAGES)]:
        targets.look_up([piece.target for _, each in page for piece in each])
        yield from page


class EmbeddedSigns:
    """For formats whose files carry the digest and the run. `holds` and `is_of_run` look into a file."""

    def __init__(self, run: str, holds: Callable[[Path, str], bool], is_of_run: Callable[[Path, str], bool]) -> None:
        self._run, self.holds, self._is_of_run = run, holds, is_of_run

    def is_ours_to_remove(self, file: Path) -> bool:
        return self._is_of_run(file, self._run)

    def sign(self, file: Path, digest: str, content: bytes) -> None:
        pass

    def recognises(self, path: Path, file: BinaryIO) -> bool:
        return made_by_export(file)


class Closed:
    """`with` calls `close` at its end."""

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class FolderWriter(Closed):
    """Writes and removes files until they are as its pieces say. Only one thread may use an object.

    `add` waits while many files are in hand, so that memory does not grow. `begin` is called before a file changes.
    """

    def __init__(self, targets: Targets, signs: Signs, begin: Callable[[], None], jobs: int | None = None) -> None:
        self._targets, self._signs, self._begin = targets, signs, begin
        helping = jobs or processes()
        self._at_once = helping * targets.waiting
        self._helpers, self._helping = Helpers(), threading.BoundedSemaphore(helping)
        self._threads = ThreadPoolExecutor(self._at_once, "files")
        self._change = threading.Condition()  # guards all attributes below
        self.in_hand: set[Path] = set()
        self._error: BaseException | None = None
        self._stopped = False
        self._made = 0
        self.written = self.kept = self.not_made = 0

    def close(self) -> None:
        """Drop waiting files, finish the files in hand, and end the helper processes."""
        self._stopped = True
        self._threads.shutdown(cancel_futures=True)
        self._helpers.close()

    def add(self, piece: Piece) -> None:
        """Have a file written by a thread. Raises the first error of any file so far."""
        with self._change:
            self._change.wait_for(partial(self._has_room, piece))
            self.check()
            self.in_hand.add(piece.target)
        self._threads.submit(self._update_in_thread, piece)

    def check(self) -> None:
        """Raise the first error of any file so far."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all files are written. Raises the first error of any file."""
        with self._change:
            self._change.wait_for(lambda: not self.in_hand)
            self.check()

    def _has_room(self, piece: Piece) -> bool:
        # Two rows with the same path may have the same file: it is written twice, one after the other.
        return self._error is not None or (len(self.in_hand) < 4 * self._at_once and piece.target not in self.in_hand)

    def _update_in_thread(self, piece: Piece) -> None:
        try:
            if not self._stopped:
                self._update(piece)
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._change:
                self.in_hand.discard(piece.target)
                self._change.notify_all()

    def _update(self, piece: Piece) -> None:
        if piece.make is None:
            self._remove(piece)
        elif self._signs.holds(piece.target, piece.digest):
            with self._change:
                self.kept += 1
        else:
            with self._change:
                self._begin()
                self._made += 1
                few = self._made <= FEW
            content = piece.make(*piece.given) if few or piece.here else self._made_by_helper(piece)
            if content is None:
                with self._change:
                    self.not_made += 1
                return
            self._targets.put(piece.target, content, piece.digest, self._signs)
            with self._change:
                self.written += 1

    def _made_by_helper(self, piece: Piece) -> bytes | None:
        assert piece.make is not None
        with self._helping:
            return self._helpers.call(piece.make, *piece.given)

    def _remove(self, piece: Piece) -> None:
        """Remove the file and those after it, the last one first, so that an interrupted removal leaves no gap."""
        stale = list(itertools.takewhile(self._signs.is_ours_to_remove, itertools.chain([piece.target], piece.after)))
        for file in reversed(stale):
            self._targets.check(file, partial(self._signs.recognises, file))
            self._targets.remove(file, partial(self._signs.recognises, file))
