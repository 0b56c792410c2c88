"""What `tests.chaos` asks of its database: what is left to do, and whether everything is as it must be."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import ColumnElement, ScalarSelect, func, select
from sqlalchemy.orm import Session

from db.claims import MAX_ATTEMPTS
from db.models import Chunk, Image, Prompt, Result, Run
from db.states import LIVE, ImageState, RunState
from tests.chaos.kinds import kind_of
from tests.chaos.pictures import BAD_BOX, BAD_TILE, SPECIAL
from tests.db import audit
from tests.db.recount import differences
from tests.integration.faults.farm import Verdict, judge

# Images that failed only because the mount was away.
MISSED: tuple[ColumnElement[bool], ...] = (
    Image.error_class == "missing",
    Image.path.not_in([name for name, why in SPECIAL.items() if why == "missing"]),
)


def unfinished(session: Session) -> Sequence[str]:
    """The names of runs that are neither done nor cancelled."""
    return session.execute(select(Run.name).where(Run.state.not_in(("done", "cancelled")))).scalars().all()


def prompts_of(session: Session, name: str) -> list[str]:
    """Those that the run has now, in their order; none if there is no such run."""
    prompts = select(Prompt.text).join(Run, Run.id == Prompt.run_id).where(Run.name == name, Prompt.every_image)
    return list(session.execute(prompts.order_by(Prompt.id)).scalars())


def is_unsettled(session: Session, name: str) -> bool:
    """Whether the run's prompts were changed, and its images have not all followed."""
    return bool(session.execute(select(Run.unsettled).where(Run.name == name)).scalar_one_or_none())


def incomplete(session: Session, name: str) -> int:
    """Done images of the run without results of some prompts that were added."""
    run_id = select(Run.id).where(Run.name == name).scalar_subquery()
    lacking = (Image.run_id == run_id, Image.state == ImageState.DONE, Image.adds)
    return session.execute(select(func.count(Image.id)).where(*lacking)).scalar_one()


def runs_that_read_nothing(session: Session) -> int:
    read_one = select(Image.id).where(Image.run_id == Run.id, Image.state == ImageState.DONE).exists()
    blind = select(func.count()).select_from(Run).where(Run.state.in_(("loading", "active")), ~read_one)
    return session.execute(blind).scalar_one()


def rows_missed(session: Session) -> int:
    """In all runs, before they are tried again."""
    return session.execute(select(func.count(Image.id)).where(*MISSED)).scalar_one()


def capped(session: Session, name: str) -> int:
    """Images of the run with a capped result of a prompt that it has."""
    run_id = select(Run.id).where(Run.name == name).scalar_subquery()
    results = (
        select(Result.image_id).join(Image, Image.id == Result.image_id).join(Prompt, Prompt.id == Result.prompt_id)
    )
    found = results.where(Image.run_id == run_id, Result.capped, Prompt.every_image).distinct().subquery()
    return session.execute(select(func.count()).select_from(found)).scalar_one()


def leftovers(session: Session) -> list[tuple[str, str, int, int]]:
    """Each run's name and state, and how many of its images were cancelled, and are missing for a lost mount."""

    def count(*where: ColumnElement[bool]) -> ScalarSelect[int]:
        return select(func.count(Image.id)).where(Image.run_id == Run.id, *where).scalar_subquery()

    cancelled = count(Image.state == ImageState.CANCELLED, Image.chunk_id.is_not(None))  # not as its row is gone
    columns = (Run.name, Run.state, cancelled, count(*MISSED))
    return [row.tuple() for row in session.execute(select(*columns).order_by(Run.id))]


def verdicts(session: Session) -> tuple[Verdict, Counter[str], list[str]]:
    """All runs in one: Jepsen's words, images that had to be done by somebody else or again, and what is odd."""
    total, more = Verdict(0, 0, 0, 0, 0), Counter(recovered=0, retried=0, cancelled=0, pauses=0)
    wrong = differences(session) + audit.findings(session)
    for run in session.execute(select(Run)).scalars():
        one = judge(session, run.id)
        total = Verdict(*(getattr(total, word) + getattr(one, word) for word in Verdict.__dataclass_fields__))
        wrong += [*failures(session, run), *lacking(session, run)]
        chunks = session.execute(select(Chunk).where(Chunk.run_id == run.id)).scalars().all()
        more["recovered"] += sum(chunk.images for chunk in chunks if chunk.fence > 1)
        more["retried"] += audit.retried(session, run.id)
        more["pauses"] += audit.pauses(session, run.id)
        more["cancelled"] += sum(chunk.cancelled for chunk in chunks)
        for chunk in chunks:
            if chunk.state in LIVE or chunk.attempts > MAX_ATTEMPTS:
                wrong.append(f"run {run.name}, chunk {chunk.number}: {chunk.state} after {chunk.attempts} attempts")
            if chunk.cancelled and run.state != RunState.CANCELLED:
                wrong.append(f"run {run.name}, chunk {chunk.number}: {chunk.cancelled} images are cancelled")
    return total, more, wrong


def lacking(session: Session, run: Run) -> list[str]:
    """Which images have not exactly one result of each prompt of the run; incomplete ones need not."""
    prompts = set(session.execute(select(Prompt.id).where(Prompt.run_id == run.id, Prompt.every_image)).scalars())
    whole = (Image.run_id == run.id, Image.state == ImageState.DONE, Image.prompts.is_(None), ~Image.adds)
    results = select(Image.id, Result.prompt_id).outerjoin(Result, Result.image_id == Image.id).where(*whole)
    has: dict[int, list[int]] = {}
    for id, prompt_id in session.execute(results):
        has.setdefault(id, []).extend({prompt_id} & prompts)
    odd = sorted(id for id, ids in has.items() if sorted(ids) != sorted(prompts))
    wrong = [f"run {run.name}: these images lack results, or have some twice: {odd[:5]}"] if odd else []
    if run.state == RunState.DONE and (left := incomplete(session, run.name)):
        wrong.append(f"run {run.name}: {left} images are incomplete, although they were retried")
    return wrong + [f"run {run.name} is unsettled"] * run.unsettled


def failures(session: Session, run: Run) -> list[str]:
    """Which images failed that should not have, or did not: of a cancelled run only some of the bad ones may have."""
    images = session.execute(select(Image.path, Image.error_class, Image.tiling).where(Image.run_id == run.id)).all()
    found = {image.path: image.error_class for image in images if image.error_class is not None}
    is_cut = {image.path: bool(image.tiling or kind_of(run.name).tiling) for image in images}
    wanted = {name: why for name, why in SPECIAL.items() if name in is_cut}
    if is_cut.get(BAD_TILE):
        wanted[BAD_TILE] = "internal"
    if kind_of(run.name).boxes and BAD_BOX in is_cut:
        wanted[BAD_BOX] = "bad_box"
    if run.state == RunState.CANCELLED:  # what a mount took from it waits for its retry too
        missed = session.execute(select(Image.path).where(Image.run_id == run.id, *MISSED)).scalars()
        wanted = {name: why for name, why in wanted.items() if name in found} | dict.fromkeys(missed, "missing")
    odd = sorted(found.items() ^ wanted.items())
    return [f"run {run.name}: these images failed or did not, unexpectedly: {odd}"] if odd else []
