"""The budgets of --stop-after: whether the latest images of a run failed, or are empty, more often than it allows.

They are judged when doorbells are rung, at the end of each chunk and by the reconciler, not at each commit. Looks at
the counters of a few chunks only, so its cost does not grow with the run.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, union_all
from sqlalchemy.orm import Session

from db.chunks import ENDED_IMAGES, lock_run
from db.models import Chunk, Run
from db.states import ChunkState, RunState
from db.steering import pause
from db.values import StopRule

ROUNDING = 1e-9  # so that 32.2 % of 500 are 161
_WORKED_ON = (ChunkState.RUNNING, ChunkState.DONE, ChunkState.FAILED)
_WHY = re.compile(r"as .* of the latest .* images (failed|are empty)")


@dataclass(frozen=True)
class _Ended:
    """How many images of a chunk have ended, and how."""

    ended: int
    failed: int
    empty: int


def exceeded(session: Session, run_id: int) -> str | None:
    """Which budget of the run is exceeded, as the reason of a pause; None if none is.

    The latest images are those of the chunks with the highest numbers that were begun since the run was resumed.
    """
    images = Run.images - Run.duplicates - Run.rejected
    columns = (Run.stop_after, Run.resumed_at, images.label("images"))
    run = session.execute(select(*columns).where(Run.id == run_id)).one_or_none()
    if run is None or not run.stop_after:
        return None
    rules = [StopRule.read(text) for text in run.stop_after]
    latest = _latest_chunks(session, run_id, run.resumed_at, max(rule.of for rule in rules))
    return next((why for rule in rules if (why := _broken(rule, latest, run.images))), None)


def stop(session: Session, run_id: int) -> str | None:
    """Pause the run if it has exceeded a budget, and return the reason; None if it has not, or does not go on."""
    run = lock_run(session, run_id)  # so that it is not resumed, or given other rules, after they were judged
    why = exceeded(session, run_id) if run is not None and run.state == RunState.ACTIVE else None
    return why if why is not None and pause(session, run_id, why) else None


def stopped_by(paused: str) -> str | None:
    """Whether this reason of a pause is a budget's, and of what: "failed" or "empty"."""
    found = _WHY.match(paused)
    return found[1].removeprefix("are ") if found else None


def _broken(rule: StopRule, latest: Sequence[_Ended], images: int) -> str | None:
    """Why the rule is broken; None if it is not.

    While fewer images have ended than the rule looks back, those to come are taken for good ones: the rule is broken as
    soon as no good image can save it.
    """
    ended = bad = 0
    for chunk in latest:
        if ended >= rule.of:
            break
        ended += chunk.ended
        bad += getattr(chunk, rule.outcome)
    window = max(min(rule.of, images), ended)
    if bad < max(1, math.ceil(window * rule.percent / 100 - ROUNDING)):
        return None
    said = "failed" if rule.outcome == "failed" else "are empty"
    return f"as {bad:,} of the latest {ended:,} images {said} (--stop-after '{rule}')"


def _latest_chunks(session: Session, run_id: int, since: float | None, images: int) -> list[_Ended]:
    """The chunks of the highest numbers that have some image that ended: enough of them for `images` images."""
    failed = (Chunk.failed + Chunk.incomplete).label("failed")  # of incomplete ones, prompts that were added failed
    columns = (Chunk.number, ENDED_IMAGES.label("ended"), failed, Chunk.empty.label("empty"))
    begun = () if since is None else (Chunk.started_at >= since,)
    # One query for each state, as the index on states and numbers then finds them without looking at other chunks.
    parts = [
        select(
            select(*columns)
            .where(Chunk.run_id == run_id, Chunk.state == state, ENDED_IMAGES > 0, *begun)
            .order_by(Chunk.number.desc())
            .limit(images)
            .subquery()
        )
        for state in _WORKED_ON
    ]
    latest = union_all(*parts).subquery()
    rows = select(latest.c.ended, latest.c.failed, latest.c.empty).order_by(latest.c.number.desc())
    return [_Ended(*row) for row in session.execute(rows)]
