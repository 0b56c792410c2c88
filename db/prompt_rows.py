"""The prompts of a run as rows: found by how they are typed, and added. Knows no images, and never commits."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import SQLColumnExpression, insert, select
from sqlalchemy.orm import Session

from db.bulk import named_at_once
from db.classes import Wording
from db.models import Prompt


def run_prompts(session: Session, run_id: int) -> tuple[str, ...]:
    """The prompts that every image of the run has, as `db.classes.Wording` types them."""
    return tuple(_typed(session, run_id, Prompt.every_image))


def changed_prompts(session: Session, run_id: int) -> frozenset[str]:
    """The prompts that were added or dropped since the run was recorded, typed in the same way."""
    return frozenset(_typed(session, run_id, Prompt.changed))


def _typed(session: Session, run_id: int, which: SQLColumnExpression[bool]) -> Iterator[str]:
    prompts = select(Prompt.text, Prompt.class_name).where(Prompt.run_id == run_id, which)
    return (str(Wording(*row)) for row in session.execute(prompts.order_by(Prompt.id)))


def prompt_row(run_id: int, typed: str, *, every_image: bool) -> dict[str, Any]:
    """The row of a prompt that is typed like this."""
    return {"run_id": run_id, "every_image": every_image} | asdict(Wording.read(typed))


def prompt_ids(session: Session, run_id: int, prompts: Iterable[str]) -> dict[str, int]:
    """Ids of the run's prompts that are typed like this. Prompts that the run does not have yet are added."""
    ids: dict[str, int] = {}
    for wanted in named_at_once(sorted(prompts)):
        known = known_prompts(session, run_id, wanted)
        missing = [prompt_row(run_id, typed, every_image=False) for typed in wanted if typed not in known]
        if missing:
            session.execute(insert(Prompt), missing)
            known = known_prompts(session, run_id, wanted)
        ids |= known
    return ids


def known_prompts(session: Session, run_id: int, wanted: Sequence[str]) -> dict[str, int]:
    """Ids of those of these (at most 1000) prompts that the run has."""
    texts = {Wording.read(typed).text for typed in wanted}
    rows = select(Prompt.text, Prompt.class_name, Prompt.id).where(Prompt.run_id == run_id, Prompt.text.in_(texts))
    # The same text may have other classes in other prompts of the run.
    known = {str(Wording(text, class_name)): id for text, class_name, id in session.execute(rows)}
    return {typed: known[typed] for typed in wanted if typed in known}
