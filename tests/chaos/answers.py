"""Whether each image of a run has what its picture gives alone, with the run's model and tiles, when nothing breaks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Image, Instance, Prompt, Result, Run
from db.states import ImageState
from tests.chaos.kinds import PROMPT, Kind, kind_of
from tests.chaos.models import made
from tests.chaos.pictures import boxes_of
from tests.chaos.verdict import prompts_of
from workers.inference.items import Item, Segmented
from workers.inference.protocol import Options
from workers.inference.reading.images import ReadRules
from workers.inference.stream import pipeline
from workers.inference.stream.pipeline import Pace
from workers.inference.tiles import Tiling
from workers.settings import Settings

Answer = tuple[Any, ...]
"""Width and height in pixels; of each prompt its presence, whether it is capped, and all that is known of its masks."""


@dataclass(frozen=True)
class Recorded:
    """A done image as the database has it."""

    path: str
    tiling: Tiling | None
    file: tuple[int | None, int | None]  # bytes and time of change when it was read
    answer: Answer
    asked: tuple[str, ...] = (PROMPT,)  # those of the run; of an incomplete image, those that it has results of

    @property
    def is_cut(self) -> bool:
        width, height, *_ = self.answer
        return self.tiling is not None and len(self.tiling.views(width, height)) > 1


def recorded(session: Session, name: str) -> list[Recorded]:
    """The done images of a run that its source still has."""
    run = session.execute(select(Run).where(Run.name == name)).scalar_one()
    of_run = (Image.run_id == run.id, Image.state == ImageState.DONE, Image.load == run.load)
    prompts = tuple(prompts_of(session, name))
    instances = defaultdict(list)
    found = select(Instance).join(Image, Image.id == Instance.image_id).where(*of_run).order_by(Instance.rank)
    for one in session.execute(found).scalars():
        box = (one.x1, one.y1, one.x2, one.y2)
        instances[one.image_id, one.prompt_id].append((one.score, box, one.area, one.rle))
    results = defaultdict(list)
    asked = (
        select(Result, Prompt.text).join(Image, Image.id == Result.image_id).join(Prompt, Prompt.id == Result.prompt_id)
    )
    for result, text in session.execute(asked.where(*of_run, Prompt.every_image).order_by(Prompt.id)):
        masks = tuple(instances[result.image_id, result.prompt_id])
        results[result.image_id].append((text, result.presence, result.capped, masks))
    return [
        Recorded(
            image.path,
            Tiling.of(image.tiling) if image.tiling else kind_of(name).tiling,
            (image.file_size, image.file_mtime_ns),
            (image.width, image.height, *results[image.id]),
            tuple(text for text, *_ in results[image.id]) if image.adds else prompts,
        )
        for image in session.execute(select(Image).where(*of_run)).scalars()
    ]


def alone(folder: Path, names: Sequence[str], kind: Kind, prompts: tuple[str, ...] = (PROMPT,)) -> dict[str, Answer]:
    """What these pictures give in a run of this kind with these prompts, each in a batch of its own."""
    items = [
        Item(number, str(folder / name), prompts, kind.tiling, boxes=boxes_of(name) if kind.boxes else ())
        for number, name in enumerate(names)
    ]
    pace = Pace(batch_size=1, threads=1)
    stream = pipeline.segment(items, made(kind.model, Settings()), ReadRules(), Options(), pace)
    outcomes = [outcome for batch in stream for outcome in batch]
    return {names[one.id]: _answer(one, prompts) for one in outcomes if isinstance(one, Segmented)}


def _answer(outcome: Segmented, prompts: tuple[str, ...]) -> Answer:
    results = [
        (text, found.presence, found.capped, tuple((one.score, one.box, one.area, one.rle) for one in found.instances))
        for text, found in zip(prompts, outcome.found, strict=True)
    ]
    return (outcome.width, outcome.height, *results)


def strange(name: str, folder: Path, images: Sequence[Recorded], is_done: bool) -> Iterator[str]:
    """One line for each way in which images of a run have another answer than alone.

    Only pictures that were not changed since can be judged; in a run that `is_done` all must be such.
    """
    fresh = [image for image in images if image.file == _file(folder / image.path)]
    if is_done and len(fresh) < len(images):
        yield f"{name}: {len(images) - len(fresh)} results are of pictures that were changed since"
    wrong = []
    for tiling, asked in {(image.tiling, image.asked) for image in fresh}:
        these = {image.path: image.answer for image in fresh if (image.tiling, image.asked) == (tiling, asked)}
        right = alone(folder, list(these), replace(kind_of(name), tiling=tiling), asked)
        wrong += [path for path, answer in these.items() if answer != right.get(path)]
    if wrong:
        yield f"{name}: {len(wrong)} images have another answer than alone: {sorted(wrong)[:5]}"


def _file(path: Path) -> tuple[int, int]:
    seen = path.stat()
    return seen.st_size, seen.st_mtime_ns
