"""The pending images of a claimed chunk, with what is to be computed of each. Changes nothing.

An image that is done already may be pending only because prompts were added to its run later. Of such an image only the
prompts that have no result yet are computed.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from db.conditions import TO_ADD, TO_REDO
from db.models import Image, Prompt, Result
from db.outcomes import ImageFailed, Outcome
from db.states import ImageState
from db.values import GivenBox

_CLAIMED = select(
    Image.id,
    Image.row,
    Image.path,
    Image.prompts,
    TO_REDO.label("again"),
    Image.tiling,
    Image.boxes,
    Image.adds,
    Image.width,
    Image.height,
    Image.file_size,
    Image.file_mtime_ns,
    Image.warning,
)


@dataclass(frozen=True)
class Kept:
    """What an image has already, if it is pending only because prompts were added to its run."""

    prompt_ids: tuple[int, ...]  # all prompts of the image
    width: int  # pixels of each mask
    height: int
    file_size: int | None  # of the file that the results were made of, see `db.models.Image`
    file_mtime_ns: int | None
    warning: str | None


@dataclass(frozen=True)
class ClaimedImage:
    """A pending image of a claimed chunk."""

    id: int
    row: int
    path: str
    prompt_ids: tuple[int, ...]  # prompts to compute; none if all added prompts have been dropped
    again: bool = False  # it was computed before: the new outcome replaces its old results
    tiling: str | None = None  # how it is cut into tiles, if other than the run says
    boxes: tuple[GivenBox, ...] = ()
    kept: Kept | None = None  # its results stay, unless its file has changed: then all of its prompts are computed

    def is_replaced_by(self, outcome: Outcome) -> bool:
        """Whether the outcome takes the place of all that the image has, and is not only added to it."""
        if self.kept is None:
            return self.again
        brings = () if isinstance(outcome, ImageFailed) else outcome.results
        return any(result.prompt_id not in self.prompt_ids for result in brings)


def claimed_images(session: Session, run_id: int, chunk_id: int) -> tuple[ClaimedImage, ...]:
    """The pending images of the chunk, in the order of their rows."""
    of_run = select(Prompt.id).where(Prompt.run_id == run_id, Prompt.every_image).order_by(Prompt.id)
    every_image = tuple(session.execute(of_run).scalars())
    pending = _CLAIMED.where(Image.chunk_id == chunk_id, Image.state == ImageState.PENDING).order_by(Image.row)
    images = session.execute(pending).all()
    has = _results_kept(session, chunk_id) if any(image.adds for image in images) else {}
    return tuple(_claimed(image, every_image, has.get(image.id, ())) for image in images)


def _results_kept(session: Session, chunk_id: int) -> dict[int, list[int]]:
    """For the images of the chunk that keep their results: the prompts of these results, by image id."""
    kept = select(Result.image_id, Result.prompt_id).join(Image, Image.id == Result.image_id)
    has = defaultdict(list)
    for image_id, prompt_id in session.execute(kept.where(Image.chunk_id == chunk_id, TO_ADD)):
        has[image_id].append(prompt_id)
    return has


def _claimed(image: Row[Any], every_image: tuple[int, ...], has: Collection[int]) -> ClaimedImage:
    prompts = every_image if image.prompts is None else tuple(image.prompts)
    kept = None
    if image.adds:
        file = (image.file_size, image.file_mtime_ns)
        kept = Kept(prompts, image.width, image.height, *file, image.warning)
    return ClaimedImage(
        image.id,
        image.row,
        image.path,
        prompt_ids=tuple(prompt for prompt in prompts if prompt not in has),
        again=image.again,
        tiling=image.tiling,
        boxes=tuple((x1, y1, x2, y2, positive) for x1, y1, x2, y2, positive in image.boxes or ()),
        kept=kept,
    )
