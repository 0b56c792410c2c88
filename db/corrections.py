"""Gives other settings to a run that has no result yet. Takes the caller's session and never commits; knows no CSV."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from db.chunks import DONE_IMAGES, change_chunks, in_order, require_none_running
from db.conditions import HAS_RESULTS
from db.models import Chunk, Image, Prompt, Run
from db.prompt_rows import known_prompts, prompt_row
from db.states import LIVE, ImageState, RunState
from db.transitions import Transition
from db.values import Frozen


class HasResults(Exception):
    """The run has results, so its settings cannot change any more."""


def has_results(session: Session, run_id: int) -> bool:
    """Whether any image has results, also one that is to be computed again."""
    # Such images are in chunks that have a parent, so only images of such chunks are looked at.
    waits = select(Image.id).where(Image.chunk_id == Chunk.id, HAS_RESULTS).exists()
    again = (Chunk.run_id == run_id, Chunk.parent_id.is_not(None), waits)
    return _any_done(session, run_id) or session.execute(select(Chunk.id).where(*again).limit(1)).first() is not None


def correct(session: Session, run_id: int, uid: str, frozen: Frozen, prompts: Sequence[str]) -> None:
    """Give a run other settings, and take back its chunks that are claimed under the old settings.

    The run gets a new `uid`, so that a worker which read the old settings can neither claim a chunk of the run nor
    freeze its model into it. Raises `HasResults`, also if the run no longer has this `uid`, and `ClaimedMeanwhile`.
    """
    # Chunks are locked before the run, as in every transaction. This UPDATE waits for a worker that commits a batch
    # now, and `_any_done` then sees its results. A claim that waits for this transaction finds its chunk not queued.
    fresh: dict[str, Any] = {"not_before": None, "error": None, "attempts": 0, "crashes": 0, "releases": 0}
    live = in_order(Chunk.run_id == run_id, Chunk.state.in_(LIVE))
    change_chunks(session, Transition.CORRECT, live, **fresh)
    takes = (Run.id == run_id, Run.uid == uid, Run.state.in_(_CORRECTABLE))
    # Empty until the first worker writes what it loaded.
    model = dict.fromkeys(("revision", "weights_sha256", "dtype", "compiled", "versions"))
    corrected = update(Run).where(*takes).values(uid=uuid4().hex, started_at=None, **asdict(frozen), **model)
    row = session.execute(corrected.returning(Run.prompt_column, Run.box_column)).one_or_none()
    if row is None or _any_done(session, run_id):
        raise HasResults
    require_none_running(session, run_id)  # a chunk may have been added and claimed after the UPDATE above
    _replace_prompts(session, run_id, prompts, by_row=any(row))


def move(session: Session, run_id: int, source: str, root: str) -> None:
    """Record new places for the run's source and for the folder that its relative paths start from."""
    session.execute(update(Run).where(Run.id == run_id).values(source=source, root=root))


def rows_at(session: Session, run_id: int, numbers: Sequence[int]) -> list[tuple[int, str, int | None]]:
    """(number, path, bytes of the file when it was read) of the good rows with these numbers, at most 1000."""
    rows = select(Image.row, Image.path, Image.file_size).where(Image.run_id == run_id, Image.row.in_(numbers))
    good = rows.where(Image.state != ImageState.REJECTED).order_by(Image.row)
    return [(row.row, row.path, row.file_size) for row in session.execute(good)]


_CORRECTABLE = (RunState.LOADING, RunState.ACTIVE, RunState.DONE, RunState.CANCELLED)


def _any_done(session: Session, run_id: int) -> bool:
    computed = select(Chunk.id).where(Chunk.run_id == run_id, DONE_IMAGES > 0).limit(1)
    return session.execute(computed).first() is not None


def _replace_prompts(session: Session, run_id: int, prompts: Sequence[str], *, by_row: bool) -> None:
    """Replace the prompts that every image has. Prompts of single rows (`by_row`) stay, as those rows refer to them."""
    if not by_row:
        session.execute(delete(Prompt).where(Prompt.run_id == run_id))
    session.execute(update(Prompt).where(Prompt.run_id == run_id).values(every_image=False, changed=False))
    known = known_prompts(session, run_id, prompts)
    session.execute(update(Prompt).where(Prompt.id.in_(known.values())).values(every_image=True, dropped=False))
    if new := [prompt_row(run_id, typed, every_image=True) for typed in prompts if typed not in known]:
        session.execute(insert(Prompt), new)
