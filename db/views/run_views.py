"""The settings of runs with their prompts and classes, as workers and exports need them, and lists of runs.

Changes nothing; `db.views.status` knows where runs stand, and `db.views.results` reads rows.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.bulk import named_at_once
from db.chunks import DONE_IMAGES
from db.classes import NamedClass, classes_of_text, numbered_classes
from db.models import Chunk, Image, Prompt, Run
from db.states import OVER, STOPPED, ImageState, RunState, run_is_over
from db.steering import GOES_ON
from db.values import Frozen, Source


class RunGone(Exception):
    """The run was deleted while it was being read."""


@dataclass(frozen=True)
class RunView:
    """A run's settings, as workers and exports need them."""

    id: int
    uid: str
    name: str
    state: str
    paused: str | None  # why none of its chunks is begun; None: it is not paused
    source: Source
    frozen: Frozen
    revision: str | None
    weights_sha256: str | None
    dtype: str | None
    compiled: bool | None
    versions: dict[str, str] | None  # packages of the first worker: name -> version
    images: int
    gone: int  # of these images, those whose row the source no longer has
    source_ended: bool  # the current load read the source to its end
    source_rows: int  # rows that the current load has read
    load: int  # number of the current load, from 1
    prompts: dict[int, str]  # id -> text for the model
    every_image: tuple[int, ...]  # ids of the prompts of rows that name none themselves
    unsettled: bool  # its prompts were changed, and not all of its images have followed
    class_of: dict[int, int]  # id of a prompt -> id of its class
    classes: dict[int, NamedClass]  # by id: those that a file lists, then others in the order of their prompts

    @property
    def over(self) -> bool:
        """Whether nothing of the run is pending, or will be before a command takes it up."""
        return run_is_over(self.state, unsettled=self.unsettled)

    @property
    def every_class(self) -> tuple[int, ...]:
        """Ids of the classes of rows that name no prompts themselves."""
        return tuple(dict.fromkeys(self.class_of[prompt] for prompt in self.every_image))


def run_view(session: Session, run_id: int, *, row_prompts: bool = True) -> RunView | None:
    """The run, or None. Without `row_prompts` it has no prompts of single rows, of which there may be very many.

    Prompts that were dropped keep the numbers of their classes from others, but are not shown.
    """
    run = session.get(Run, run_id)
    if run is None:
        return None
    columns = (Prompt.id, Prompt.text, Prompt.every_image, Prompt.class_name, Prompt.dropped)
    wanted = select(*columns).where(Prompt.run_id == run_id).order_by(Prompt.id)
    prompts = session.execute(wanted if row_prompts else wanted.where(Prompt.every_image)).all()
    classes = numbered_classes(classes_of_text(run.classes), (prompt.class_name for prompt in prompts))
    own = set(RunView.__dataclass_fields__) - {"source", "frozen", "prompts", "every_image", "class_of", "classes"}
    shown = [prompt for prompt in prompts if not prompt.dropped]
    dropped = {prompt.class_name for prompt in prompts} - {prompt.class_name for prompt in shown}
    listed = {one.name for one in classes_of_text(run.classes)}
    return RunView(
        source=run.rows_from,
        frozen=run.frozen,
        prompts={prompt.id: prompt.text for prompt in shown},
        every_image=tuple(prompt.id for prompt in prompts if prompt.every_image),
        class_of={prompt.id: classes[prompt.class_name].id for prompt in shown},
        classes={one.id: one for one in classes.values() if one.name in listed or one.name not in dropped},
        **{name: getattr(run, name) for name in own},
    )


def prompt_texts(session: Session, ids: Collection[int]) -> dict[int, str]:
    """The texts of these prompts, by id, however many there are: each row of a chunk may have its own."""
    prompts = select(Prompt.id, Prompt.text)
    parts = named_at_once(sorted(ids))
    return {row.id: row.text for part in parts for row in session.execute(prompts.where(Prompt.id.in_(part)))}


def root_of(session: Session, run_id: int) -> str | None:
    """The folder that the run's relative paths start from; None if the run is deleted."""
    return session.execute(select(Run.root).where(Run.id == run_id)).scalar_one_or_none()


def some_done_path(session: Session, run_id: int) -> str | None:
    """The path of some done image of the run; None if it has none."""
    chunk = select(Chunk.id).where(Chunk.run_id == run_id, DONE_IMAGES > 0).limit(1).scalar_subquery()
    done = select(Image.path).where(Image.chunk_id == chunk, Image.state == ImageState.DONE).limit(1)
    return session.execute(done).scalar_one_or_none()


def run_names(session: Session) -> list[str]:
    """The names of all runs, the newest last."""
    return list(session.execute(select(Run.name).order_by(Run.id)).scalars())


def run_ids(session: Session) -> list[int]:
    """The ids of all runs, the newest last."""
    return list(session.execute(select(Run.id).order_by(Run.id)).scalars())


def active_models(session: Session) -> list[tuple[str, str]]:
    """(name, model) of each run that is loading or active, the oldest first."""
    unfinished = Run.state.in_((RunState.ACTIVE, RunState.LOADING))
    rows = session.execute(select(Run.name, Run.model).where(unfinished).order_by(Run.id))
    return [(row.name, row.model) for row in rows]


def active_runs(session: Session) -> list[int]:
    """The ids of all runs that are active and not paused, the oldest first."""
    return list(session.execute(select(Run.id).where(GOES_ON).order_by(Run.id)).scalars())


def unfinished_runs(session: Session) -> list[str]:
    """The names of runs that are not over and not paused, each with its state in brackets if that is not active."""
    unfinished = Run.state.not_in(OVER) | ((Run.state == RunState.DONE) & Run.unsettled)
    rows = select(Run.name, Run.state).where(unfinished, Run.paused.is_(None)).order_by(Run.id)
    shown = {RunState.ACTIVE: "", RunState.DONE: " (its prompts change)"}
    return [name + shown.get(RunState(state), f" ({state})") for name, state in session.execute(rows)]


def paused_runs(session: Session) -> list[str]:
    """The names of all paused runs that are not being stopped."""
    paused = (Run.paused.is_not(None), Run.state.not_in(STOPPED))
    return list(session.execute(select(Run.name).where(*paused).order_by(Run.id)).scalars())
