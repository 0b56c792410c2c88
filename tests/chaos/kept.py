"""What images had before the prompts of their run were changed, and whether they have it still. Changes nothing.

A prompt that is added costs no other result a byte. Only a redo, or a file that was replaced, may change old results.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import false, func, or_, select
from sqlalchemy.orm import Session

from db.models import Image, Instance, Result, Run
from db.states import ImageState
from tests.db import audit


@dataclass(frozen=True)
class Had:
    """What an image had."""

    of: tuple[int | None, ...]  # how often it was redone, and bytes and time of change of the file
    results: dict[int, str]  # by prompt: a checksum of all columns of the result and its instances


@dataclass(frozen=True)
class Kept:
    """The done images of a run at one moment."""

    uid: str
    images: dict[int, Had]


def kept(session: Session, name: str) -> Kept | None:
    """Those of the run with this name, if there is one."""
    run = session.execute(select(Run.id, Run.uid).where(Run.name == name)).one_or_none()
    return None if run is None else Kept(run.uid, _images(session, run.id))


def _images(session: Session, run_id: int) -> dict[int, Had]:
    # Read first: what is redone from now on has another number at the end.
    again = (audit.step.c.before == ImageState.DONE, audit.step.c.after == ImageState.PENDING)
    anew = (audit.step.c.run_id == run_id, *again, audit.step.c.adds == false())
    counted = select(audit.step.c.image_id, func.count().label("times")).where(*anew).group_by(audit.step.c.image_id)
    redone = {row.image_id: row.times for row in session.execute(counted)}
    of_run = (Image.run_id == run_id, or_(Image.state == ImageState.DONE, Image.adds))
    sums = defaultdict(lambda: defaultdict(sha256))  # type: ignore[var-annotated]
    for table in (Result, Instance):
        rows = select(table).join(Image, Image.id == table.image_id).where(*of_run)
        order = (Result.image_id,) if table is Result else (Instance.image_id, Instance.prompt_id, Instance.rank)
        columns = rows.with_only_columns(*table.__table__.columns).order_by(*order)
        for row in session.execute(columns).mappings():
            # PostgreSQL shows each statement what was committed before it: such instances are of a later commit.
            if table is Instance and row["prompt_id"] not in sums[row["image_id"]]:
                continue
            sums[row["image_id"]][row["prompt_id"]].update(repr(tuple(row.values())).encode())
    images = session.execute(select(Image.id, Image.file_size, Image.file_mtime_ns).where(*of_run)).all()
    return {
        image.id: Had(
            (redone.get(image.id, 0), image.file_size, image.file_mtime_ns),
            {prompt: one.hexdigest() for prompt, one in sums[image.id].items()},
        )
        for image in images
    }


def compare(session: Session, befores: Sequence[Kept]) -> tuple[int, list[str]]:
    """How many results could be compared, and one line for each moment since which some are others, or gone.

    Nothing can be compared of a run that was deleted, and of images that were redone or whose file was replaced.
    """
    compared, wrong = 0, []
    runs = {row.uid: row.id for row in session.execute(select(Run.uid, Run.id))}
    now = {uid: _images(session, runs[uid]) for uid in {before.uid for before in befores} & runs.keys()}
    for before in befores:
        has = now.get(before.uid, {})
        same = {id: had for id, had in before.images.items() if id in has and had.of == has[id].of}
        compared += sum(len(had.results) for had in same.values())
        if other := sorted(id for id, had in same.items() if not had.results.items() <= has[id].results.items()):
            wrong.append(f"run {before.uid}: results of {len(other)} images changed with its prompts: {other[:5]}")
    return compared, wrong
