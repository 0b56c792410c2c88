"""Other settings for a run that has no result yet. Takes the caller's session and never commits; knows no CSV."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from db.chunks import Transition, change_chunks, in_order
from db.models import LIVE, Chunk, ChunkState, Image, ImageState, Prompt, Run, RunState
from db.values import Frozen


class HasResults(Exception):
    """Something of the run was computed with the settings that it has."""


class ClaimedMeanwhile(Exception):
    """A worker was quicker: roll back and try again."""


def has_results(session: Session, run_id: int) -> bool:
    """Whether any image was ever computed; also one whose result waits to be replaced."""
    # Those are in chunks of a redo, which have a parent: images are looked at by chunk, and not all of the run.
    waits = (Image.chunk_id == Chunk.id, Image.state == ImageState.PENDING, Image.width.is_not(None))
    again = (Chunk.run_id == run_id, Chunk.parent_id.is_not(None), select(Image.id).where(*waits).exists())
    return _counted(session, run_id) or session.execute(select(Chunk.id).where(*again).limit(1)).first() is not None


def correct(session: Session, run_id: int, uid: str, frozen: Frozen, prompts: Sequence[str]) -> None:
    """Give a run other settings, and take back what is claimed under the old ones.

    The run becomes another one (a new `uid`), so that a worker which read the old settings can neither claim nor
    freeze its model into it. Raises `HasResults`, also if the run is not the one with this `uid` any more.
    """
    # Chunks before the run, as everybody locks them: whoever commits a batch now is waited for, and seen below. A claim
    # that waits for us finds its chunk not queued any more.
    fresh: dict[str, Any] = {"not_before": None, "error": None, "attempts": 0, "crashes": 0, "releases": 0}
    live = in_order(Chunk.run_id == run_id, Chunk.state.in_(LIVE))
    change_chunks(session, Transition.CORRECT, live, **fresh)
    takes = (Run.id == run_id, Run.uid == uid, Run.state.in_(_CORRECTABLE))
    model = {
        "revision": None,
        "weights_sha256": None,
        "dtype": None,
        "versions": None,
    }  # the first worker writes what it loaded
    corrected = update(Run).where(*takes).values(uid=uuid4().hex, started_at=None, **asdict(frozen), **model)
    row = session.execute(corrected.returning(Run.prompt_column)).one_or_none()
    if row is None or _counted(session, run_id):
        raise HasResults
    running = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.state == ChunkState.RUNNING).limit(1)
    if session.execute(running).first() is not None:  # of a chunk that was not there when we took them back
        raise ClaimedMeanwhile
    _replace_prompts(session, run_id, prompts, by_row=row.prompt_column is not None)


def move(session: Session, run_id: int, source: str, root: str) -> None:
    """The run's source stands elsewhere from now on, and so does the folder that its relative paths start from."""
    session.execute(update(Run).where(Run.id == run_id).values(source=source, root=root))


def rows_at(session: Session, run_id: int, numbers: Sequence[int]) -> list[tuple[int, str, int | None]]:
    """Of the good rows with these numbers (at most 1000): number, path, and bytes of the file when it was read."""
    rows = select(Image.row, Image.path, Image.file_size).where(Image.run_id == run_id, Image.row.in_(numbers))
    good = rows.where(Image.state != ImageState.REJECTED).order_by(Image.row)
    return [(row.row, row.path, row.file_size) for row in session.execute(good)]


_CORRECTABLE = (RunState.LOADING, RunState.ACTIVE, RunState.DONE, RunState.CANCELLED)


def _counted(session: Session, run_id: int) -> bool:
    computed = select(Chunk.id).where(Chunk.run_id == run_id, Chunk.segmented + Chunk.empty > 0).limit(1)
    return session.execute(computed).first() is not None


def _replace_prompts(session: Session, run_id: int, texts: Sequence[str], *, by_row: bool) -> None:
    """The prompts of every image. Those that rows brought themselves stay, as rows name them."""
    known: set[str] = set()
    if by_row:
        session.execute(update(Prompt).where(Prompt.run_id == run_id, Prompt.every_image).values(every_image=False))
        again = update(Prompt).where(Prompt.run_id == run_id, Prompt.text.in_(texts)).values(every_image=True)
        known.update(session.execute(again.returning(Prompt.text)).scalars())
    else:
        session.execute(delete(Prompt).where(Prompt.run_id == run_id))
    new = [{"run_id": run_id, "text": text, "every_image": True} for text in texts if text not in known]
    if new:
        session.execute(insert(Prompt), new)
