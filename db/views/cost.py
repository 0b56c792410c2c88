"""What runs cost in seconds of workers, each of which has one GPU: spent, and projected from what was measured.

A worker's seconds for a chunk are those from its claim to its last commit; loading a model is not among them. Changes
nothing, and knows no prices.
"""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.chunks import ENDED_IMAGES
from db.models import Chunk, Prompt, Run
from db.states import ChunkState
from db.views.status import SPENT, Progress

LATEST_CHUNKS = 200  # of a run are looked at
RUNS_LOOKED_AT = 20


@dataclass(frozen=True)
class Cost:
    """What a run costs in seconds of workers."""

    spent: float
    seconds_per_image: float | None  # None: nothing was measured yet
    left: float | None  # for the images that are pending


@dataclass(frozen=True)
class Measured:
    """What an image cost in an earlier run."""

    run: str
    prompts: int
    seconds_per_image: float


def cost_of(session: Session, run_id: int, progress: Progress) -> Cost:
    """What the run has cost, and what its pending images will cost."""
    images, spent = progress.images, progress.worker_seconds
    ended = images.ended
    each = seconds_per_image(session, run_id)
    if each is None and spent > 0 and ended:  # no chunk is done yet, but some batches are
        each = spent / ended
    return Cost(spent, each, None if each is None else images.pending * each)


def seconds_per_image(session: Session, run_id: int) -> float | None:
    """Seconds of a worker for one image, by the latest chunks that are done; None if none was measured.

    The first chunk of each node is left out, if there are others: in it the node gets warm.
    """
    done = (
        select(Chunk.node, Chunk.started_at, SPENT.label("spent"), ENDED_IMAGES.label("ended"))
        .where(Chunk.run_id == run_id, Chunk.state == ChunkState.DONE, SPENT > 0, ENDED_IMAGES > 0)
        .order_by(Chunk.number.desc())
        .limit(LATEST_CHUNKS)
    )
    chunks = session.execute(done).all()
    first: dict[str | None, float] = {}
    for chunk in chunks:
        began = chunk.started_at or 0.0
        first[chunk.node] = min(first.get(chunk.node, began), began)
    warm = [chunk for chunk in chunks if (chunk.started_at or 0.0) > first[chunk.node]] or chunks
    return sum(chunk.spent for chunk in warm) / sum(chunk.ended for chunk in warm) if warm else None


def measured_with(session: Session, model: str, prompts: int, points_per_side: int | None = None) -> Measured | None:
    """What an image cost in an earlier run of this model. None if no such run has measured anything.

    Of the latest runs the one with the most similar number of prompts is taken. A run that looks for everything is
    compared only with runs of as many points.
    """
    count = select(func.count()).where(Prompt.run_id == Run.id, Prompt.every_image).scalar_subquery()
    runs = select(Run.id, Run.name, count.label("prompts")).where(
        Run.model == model, Run.points_per_side.is_not_distinct_from(points_per_side)
    )
    latest = session.execute(runs.order_by(Run.id.desc()).limit(RUNS_LOOKED_AT)).all()
    for run in sorted(latest, key=lambda run: (abs(run.prompts - prompts), -run.id)):
        if (each := seconds_per_image(session, run.id)) is not None:
            return Measured(run.name, run.prompts, each)
    return None
