"""Finds done images whose files were equal, byte by byte, to files that were read now. Knows no files, never commits.

Only a run with the setting `dedupe` notes the content of its images, see `db.models.Image.content`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Row, and_, select, union_all
from sqlalchemy.orm import Session

from db.models import Image, Instance, Result
from db.states import ImageState
from db.values import FoundInstance, PromptResult


@dataclass(frozen=True)
class DoneBefore:
    """What an image with some content got."""

    width: int  # pixels of each mask
    height: int
    warning: str | None  # what is odd about the picture
    results: Mapping[int, PromptResult]  # by prompt id


def done_before(session: Session, run_id: int, contents: Collection[bytes]) -> dict[bytes, DoneBefore]:
    """For each of these contents that a done image of the run has: what it got. They are few: those of one batch.

    Images that are to be computed again are not done, so what they got before is never returned.
    """
    # One image for each content, without reading others: half of a run may be copies of one file.
    one_each = [
        select(Image.id)
        .where(Image.run_id == run_id, Image.content == content, Image.state == ImageState.DONE)
        .limit(1)
        .subquery()
        for content in contents
    ]
    if not one_each:
        return {}
    chosen = session.execute(union_all(*(select(one.c.id) for one in one_each))).scalars().all()
    return _read(session, chosen) if chosen else {}


def _read(session: Session, image_ids: Collection[int]) -> dict[bytes, DoneBefore]:
    # One statement, so that all rows are of the same moment: a redo may replace an image's results at any time.
    of_result = and_(Instance.image_id == Result.image_id, Instance.prompt_id == Result.prompt_id)
    rows: Iterable[Row[Any]] = session.execute(
        select(
            Image.content,
            Image.width,
            Image.height,
            Image.warning,
            Result.prompt_id,
            Result.presence,
            Result.capped,
            Instance.score,
            Instance.x1,
            Instance.y1,
            Instance.x2,
            Instance.y2,
            Instance.area,
            Instance.rle,
        )
        .join(Result, Result.image_id == Image.id)
        .outerjoin(Instance, of_result)
        .where(Image.id.in_(image_ids), Image.state == ImageState.DONE)
        .order_by(Image.id, Result.prompt_id, Instance.rank)
    )
    done: dict[bytes, DoneBefore] = {}
    for (content, width, height, warning), of_image in groupby(rows, lambda row: row[:4]):
        results = {}
        for (prompt_id, presence, capped), of_prompt in groupby(of_image, lambda row: row[4:7]):
            instances = tuple(
                FoundInstance(row.score, (row.x1, row.y1, row.x2, row.y2), row.area, row.rle)
                for row in of_prompt
                if row.score is not None
            )
            results[prompt_id] = PromptResult(prompt_id, presence, capped, instances)
        done[content] = DoneBefore(width, height, warning, results)
    return done
