"""Projects what a run will cost before it is recorded, from an earlier run with the same model. Makes no database."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db import presence
from db.intake import find_run
from db.prompt_rows import known_prompts
from db.refusals import DatabaseUnusable
from db.runs import done_images
from db.session import connect, reading
from db.values import Frozen
from db.views.cost import Cost, Measured, measured_with
from producer.results.cost import Bill, told_hours
from producer.results.status import duration
from producer.runs.request import RunRequest
from workers.cli.base import counted


def projected(
    url: str, frozen: Frozen, prompts: int, images: int, price: float | None
) -> tuple[str, dict[str, Any] | None]:
    """What `images` images will cost with these settings and so many prompts, in words and for JSON; an empty text and
    None if nothing was measured.

    A database that is not there or cannot be reached has measured nothing.
    """
    found: tuple[Measured | None, int] = None, 0
    with suppress(SQLAlchemyError, DatabaseUnusable, OSError), reading(connect(url, create=False)) as session:
        found = _look(session, frozen, prompts)
    measured, workers = found
    if measured is None:
        return "", None
    seconds = images * measured.seconds_per_image
    bill = Bill(Cost(0.0, measured.seconds_per_image, seconds), price)
    facts = bill.as_json() | {"measured_in": measured.run, "workers": workers}
    money = "" if price is None else f", {facts['price_left']:,.2f} at {price:g} an hour"
    each = f"{measured.seconds_per_image:.3g} s an image in run {measured.run}"
    asked = "" if measured.prompts == prompts else f" with {counted(measured.prompts, 'prompt')}"
    fleet = f"{workers} workers" if workers > 1 else "one worker"
    time = f"{duration(seconds / max(workers, 1))} on {fleet}"
    return f"would take about {told_hours(seconds)} worker hours, {time}{money} ({each}{asked})", facts


@dataclass(frozen=True)
class Addition:
    """What the prompts that a command adds to a run will cost."""

    images: int = 0  # that are done, and are computed for them
    told: str = ""  # in words; empty if that is nothing
    cost: dict[str, Any] | None = None  # for JSON; None if nothing was measured


def projected_addition(url: str, request: RunRequest, price: float | None) -> Addition:
    """What it will cost to compute the prompts that a command adds to a run."""
    new: Sequence[str] = ()
    images = 0
    with suppress(SQLAlchemyError, DatabaseUnusable, OSError), reading(connect(url, create=False)) as session:
        known = find_run(session, request.name)
        if known is not None:
            has = known_prompts(session, known.id, request.change.add)  # also one that was dropped, with its results
            new = [prompt for prompt in request.change.add if prompt not in has]
            images = done_images(session, known.id)
    if not new or not images:
        return Addition()
    cost, facts = projected(url, request.frozen, len(new), images, price)
    again = f"{counted(images, 'image')} that are done go through the vision encoder again for {', '.join(new)}"
    return Addition(images, f"{again}: {cost.removeprefix('would take ')}" if cost else again, facts)


def _look(session: Session, frozen: Frozen, prompts: int) -> tuple[Measured | None, int]:
    measured = measured_with(session, frozen.model, prompts, frozen.points_per_side)
    return measured, presence.live_workers(session)
