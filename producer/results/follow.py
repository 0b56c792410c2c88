"""Writes the masks and the preview of a run while the run goes on. Reads SQL; knows no flags.

No transaction is open while files are written: on SQLite that would make the write-ahead log grow.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from db.session import Sessions, read
from db.views.results import ExportedImage, some_images
from db.views.so_far import ChunkSoFar, chunks_again, done_rows, next_chunks
from producer.results.common import ExportRequest
from producer.results.exports.png import MaskWriter
from producer.results.files.helpers import Helpers
from producer.results.files.targets import Targets
from producer.results.preview import choose, draw_sheet
from workers.errors import first_line

LOOK_SECONDS = 1.0  # between two looks at the database
OPEN_CHUNKS = 256  # chunks watched at once: more than workers work on; masks of later chunks are written at the end
PAGE_IMAGES = 50  # images read at once, as all their masks are in memory
FIRST_PREVIEW = 10  # masks of so many images before the first preview; then one each time that the number has doubled


class Trail:
    """Finds the images of a run that were done since the last look.

    It remembers the rows that it has seen in chunks that are not over. Of all other chunks it remembers only the number
    of the last one.
    """

    def __init__(self, sessions: Sessions, run_id: int) -> None:
        self._sessions, self._run_id = sessions, run_id
        self._passed = 0
        self.watched: dict[int, set[int]] = {}  # chunk id -> rows that were returned already

    def new_rows(self) -> Iterator[list[int]]:
        """The row numbers of the newly done images, one list for each chunk."""
        for chunk in read(self._sessions, chunks_again, list(self.watched)):
            yield self._new_rows_of(chunk)
        while len(self.watched) < OPEN_CHUNKS:
            chunks = read(self._sessions, next_chunks, self._run_id, self._passed, OPEN_CHUNKS - len(self.watched))
            for chunk in chunks:
                self._passed = chunk.number
                yield self._new_rows_of(chunk)
            if not chunks:
                return

    def _new_rows_of(self, chunk: ChunkSoFar) -> list[int]:
        seen = self.watched.setdefault(chunk.id, set())
        new: list[int] = []
        if chunk.done != len(seen):
            new = [row for row in read(self._sessions, done_rows, chunk.id) if row not in seen]
            seen.update(new)
        if chunk.over:
            del self.watched[chunk.id]
        return new


class Follower:
    """`with Follower(...):` writes masks and previews in a thread until the block ends.

    `request` is a request for masks. Masks that are missing at the end are left to an export. An error is told once
    with `say` and ends the thread, never the run.
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
        """Finish the masks in hand and end the helper processes."""
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
        """Write the masks of images that were done since the last look, and maybe a preview.

        Raises the first error of writing them, or of an earlier look.
        """
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
        choose = self._request.choose
        return some_images(session, self._request.view.id, choose.least_score, rows, choose)

    def _write_preview(self) -> None:
        self._next_preview = 2 * self._masks.images
        view = self._request.view
        tiles = read(self._sessions, lambda session: choose(view, session))
        if tiles and not self._stop.is_set():
            sheet = self._helpers.call(draw_sheet, view, tiles)
            with self._targets.replacing(self._preview) as temporary:
                temporary.write_bytes(sheet)
