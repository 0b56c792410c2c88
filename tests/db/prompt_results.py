"""What is there of each prompt of a run, for tests of prompts that are added and dropped."""

from dataclasses import replace

from sqlalchemy import select

from db.claimed import ClaimedImage
from db.models import Instance, Result
from db.outcomes import ImageDone
from db.session import Sessions, reading
from db.views import run_views
from db.views.results import exported_images
from tests.db.scenario import done, scores

Dump = list[tuple[object, ...]]


def dump(sessions: Sessions, *prompt_ids: int) -> Dump:
    """All columns of all results and instances of these prompts."""
    with reading(sessions) as session:
        return [
            tuple(row)
            for table in (Result, Instance)
            for row in session.execute(
                select(*table.__table__.columns)
                .where(table.prompt_id.in_(prompt_ids))
                .order_by(*table.__table__.primary_key)
            )
        ]


def prompts_of(sessions: Sessions, run_id: int) -> dict[str, int]:
    with reading(sessions) as session:
        view = run_views.run_view(session, run_id)
    assert view is not None
    return {text: id for id, text in view.prompts.items()}


def shown(sessions: Sessions, run_id: int) -> list[tuple[str, list[int], list[float]]]:
    """Status, prompts and scores of each row, as an export shows them."""
    return [
        (image.status, [result.class_id for result in image.results], scores(image))
        for image in exported_images(sessions, run_id, 0.3)
    ]


def found(image: ClaimedImage, *scores: float, **values: object) -> ImageDone:
    return replace(done(image, *scores), **values)  # type: ignore[arg-type]
