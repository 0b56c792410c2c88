"""Masks and preview of a run that is going on, kept up with what is committed. Reads SQL; knows no flags.

It never holds a transaction while it writes files: on SQLite that would make the write-ahead log grow.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from db.session import Sessions, read
from db.views.results import ExportedImage, some_images
from db.views.trail import ChunkSoFar, chunks_again, done_rows, next_chunks
from producer.results.common import ExportRequest
from producer.results.helpers import Helpers
from producer.results.png import MaskWriter
from producer.results.preview import choose, draw_sheet
from producer.results.targets import Targets
from workers.errors import first_line

LOOK_SECONDS = 1.0
OPEN_CHUNKS = 256  # that are watched at once; more than are in work, and what rests behind them comes at the end
PAGE_IMAGES = 50  # read at once: with all their masks they are in memory
FIRST_PREVIEW = 10  # images; from then on each time that there are twice as many


class Trail:
    """Which images of a run were done since the last look.

    Remembers what it has seen of chunks that are not over; of all others only up to which number they were passed.
    """

    def __init__(self, sessions: Sessions, run_id: int) -> None:
        self._sessions, self._run_id = sessions, run_id
        self._passed = 0
        self.watched: dict[int, set[int]] = {}  # rows already told, by chunk

    def new_rows(self) -> Iterator[list[int]]:
        """Their row numbers, chunk by chunk."""
        for chunk in read(self._sessions, chunks_again, list(self.watched)):
            yield self._of(chunk)
        while len(self.watched) < OPEN_CHUNKS:
            chunks = read(self._sessions, next_chunks, self._run_id, self._passed, OPEN_CHUNKS - len(self.watched))
            for chunk in chunks:
                self._passed = chunk.number
                yield self._of(chunk)
            if not chunks:
                return

    def _of(self, chunk: ChunkSoFar) -> list[int]:
        told = self.watched.setdefault(chunk.id, set())
        new: list[int] = []
        if chunk.done != len(told):
            new = [row for row in read(self._sessions, done_rows, chunk.id) if row not in told]
            told.update(new)
        if chunk.over:
            del self.watched[chunk.id]
        return new


class Follower:
    """`with Follower(...):` follows in a thread until the block ends. What is missing then, an export writes.

    `request` is one for masks. What goes wrong is told once and ends the following, never the run.
    """

    def __init__(self, sessions: Sessions, request: ExportRequest, preview: Path, say: Callable[[str], None]) -> None:
        """Raises `UsageError` if there can be no masks in the folder."""
        self._sessions, self._request, self._preview, self._say = sessions, request, preview, say
        self._targets = request.targets or Targets(preview)
        self._trail = Trail(sessions, request.view.id)
        self._masks = MaskWriter(request)
        self._helpers = Helpers()
        self._next_preview = FIRST_PREVIEW
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        """Finish what is in hand and end all processes."""
        self._masks.close()
        self._helpers.close()

    def _follow(self) -> None:
        try:
            while not self._stop.wait(LOOK_SECONDS):
                self.look()
        except Exception as error:
            self._say(f"masks and preview wait until the run is over: {first_line(error)}")
        finally:
            self.close()

    def look(self) -> None:
        """See to what was done since the last time. Raises what went wrong with that, or before."""
        self._masks.check()
        for rows in self._trail.new_rows():
            for first in range(0, len(rows), PAGE_IMAGES):
                for image in read(self._sessions, self._images, rows[first : first + PAGE_IMAGES]):
                    if self._stop.is_set():
                        return
                    self._masks.add(image)
            if self._masks.images >= self._next_preview:
                self._write_preview()

    def _images(self, session: Session, rows: list[int]) -> list[ExportedImage]:
        view = self._request.view
        return some_images(session, view.id, min(self._request.min_score, view.frozen.threshold), rows)

    def _write_preview(self) -> None:
        self._next_preview = 2 * self._masks.images
        view = self._request.view
        tiles = read(self._sessions, lambda session: choose(view, session))
        if tiles and not self._stop.is_set():
            sheet = self._helpers.call(draw_sheet, view, tiles)
            with self._targets.replacing(self._preview) as temporary:
                temporary.write_bytes(sheet)
