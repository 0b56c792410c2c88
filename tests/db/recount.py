"""Counts everything again from the image, result and instance rows, and says where the tables disagree."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Chunk, Image, Instance, Prompt, Result, Run
from db.states import LIVE, ChunkState, ImageState, RunState


def differences(session: Session) -> list[str]:
    """One readable line for each disagreement; empty if all is well."""
    return [line for run in session.execute(select(Run)).scalars().all() for line in _Recount(session, run).lines()]


class _Recount:
    """All rows of one run."""

    def __init__(self, session: Session, run: Run) -> None:
        self.run = run
        of_run = Image.run_id == run.id
        self.images = session.execute(select(Image).where(of_run).order_by(Image.row)).scalars().all()
        self.chunks = session.execute(select(Chunk).where(Chunk.run_id == run.id)).scalars().all()
        prompts = select(Prompt.id).where(Prompt.run_id == run.id, Prompt.every_image)
        self.every_image = set(session.execute(prompts).scalars())
        self.results: defaultdict[int, list[Result]] = defaultdict(list)
        results = select(Result).join(Image, Image.id == Result.image_id).where(of_run)
        for result in session.execute(results).scalars():
            self.results[result.image_id].append(result)
        instances = select(Instance).join(Image, Image.id == Instance.image_id)
        found = instances.where(of_run, Instance.score >= run.threshold)
        self.instances = Counter((one.image_id, one.prompt_id) for one in session.execute(found).scalars())

    def lines(self) -> Iterator[str]:
        yield from self._run_lines()
        by_chunk: defaultdict[int | None, list[Image]] = defaultdict(list)
        for image in self.images:
            by_chunk[image.chunk_id].append(image)
            yield from (f"run {self.run.name}, row {image.row}, {image.state}: {line}" for line in self._image(image))
        for chunk in self.chunks:
            where = f"run {self.run.name}, chunk {chunk.number}, {chunk.state}"
            yield from (f"{where}: {line}" for line in self._chunk(chunk, by_chunk[chunk.id]))
        foreign = by_chunk.keys() - {chunk.id for chunk in self.chunks} - {None}
        if foreign:
            yield f"run {self.run.name}: its images are in chunks of another run: {foreign}"

    def _run_lines(self) -> Iterator[str]:
        states = Counter(image.state for image in self.images)
        counted = {
            "images": len(self.images),
            "duplicates": states[ImageState.DUPLICATE],
            "rejected": states[ImageState.REJECTED],
        }
        for name, count in counted.items():
            if getattr(self.run, name) != count:
                yield f"run {self.run.name}: {name} is {getattr(self.run, name)}, but its rows are {count}"
        live = sum(chunk.state in LIVE for chunk in self.chunks)
        if (self.run.state == RunState.DONE) and live:
            yield f"run {self.run.name} is done, but has {live} live chunks"
        if (self.run.state == RunState.ACTIVE) and not live:
            yield f"run {self.run.name} is active, but has no live chunk: it would never end"
        if (self.run.state == RunState.CANCELLED) and live:
            yield f"run {self.run.name} is cancelled, but has {live} live chunks"
        over = self.run.state in (RunState.DONE, RunState.CANCELLED)
        if self.run.state != RunState.DELETING and over != (self.run.finished_at is not None):
            yield f"run {self.run.name} is {self.run.state}, but was finished at {self.run.finished_at}"

    def _image(self, image: Image) -> Iterator[str]:
        has_left = image.state == ImageState.CANCELLED and image.chunk_id is None and image.load < self.run.load
        in_no_chunk = has_left or image.state in (ImageState.DUPLICATE, ImageState.REJECTED)
        if in_no_chunk != (image.chunk_id is None):
            yield f"chunk is {image.chunk_id}"
        if (image.state == ImageState.DUPLICATE) != (image.same_as is not None):
            yield f"same_as is {image.same_as}"
        if (image.state in (ImageState.FAILED, ImageState.REJECTED)) != (image.error_class is not None):
            yield f"error class is {image.error_class}"
        if image.adds and image.state not in (ImageState.DONE, ImageState.PENDING):
            yield "it adds results"
        yield from self._results(image)
        for result in self.results[image.id]:
            count = self.instances[image.id, result.prompt_id]
            if result.instances != count:
                yield f"prompt {result.prompt_id} has {result.instances} instances, but {count} are found"

    def _results(self, image: Image) -> Iterator[str]:
        again = image.state == ImageState.PENDING and image.width is not None  # it keeps what it had until then
        has = image.state == ImageState.DONE or again
        if has != (image.width is not None):
            yield f"width is {image.width}"
        wanted = self.every_image if image.prompts is None else set(image.prompts)
        results = {result.prompt_id for result in self.results[image.id]}
        # Results of dropped prompts stay, and those of prompts that were added may be missing.
        dropped = results - wanted if image.prompts is None else set()
        missing = wanted if image.adds or self.run.unsettled or again or not has else set()
        if not (wanted - missing <= results - dropped <= wanted and bool(results) == has):
            yield f"has results for the prompts {sorted(results)}, its prompts are {sorted(wanted)}"

    def _own(self, image: Image) -> list[Result]:
        """The results of prompts that the image still has."""
        return [one for one in self.results[image.id] if image.prompts is not None or one.prompt_id in self.every_image]

    def _chunk(self, chunk: Chunk, images: Sequence[Image]) -> Iterator[str]:
        done = [image for image in images if image.state == ImageState.DONE]
        found = [sum(result.instances for result in self._own(image)) for image in done]
        states = Counter(image.state for image in images)
        counted = {
            "images": len(images),
            "segmented": sum(count > 0 for count in found),
            "empty": sum(count == 0 for count in found),
            "failed": states[ImageState.FAILED],
            "cancelled": states[ImageState.CANCELLED],
            "instances": sum(found),
            "capped": sum(any(result.capped for result in self._own(image)) for image in done),
            "warned": sum(image.warning is not None for image in done),
            "incomplete": sum(image.adds for image in done),
        }
        for name, count in counted.items():
            if getattr(chunk, name) != count and not self.run.unsettled:
                yield f"{name} is {getattr(chunk, name)}, but its rows are {count}"
        pending, live = states[ImageState.PENDING], chunk.state in LIVE
        if (pending > 0) != live and self.run.state != RunState.LOADING:
            yield f"{pending} images are pending"
        if chunk.state == ChunkState.FAILED and not counted["failed"] + counted["incomplete"]:
            yield "nothing in it failed"
        if (chunk.state == ChunkState.RUNNING) != (chunk.lease_until is not None):
            yield f"its lease ends at {chunk.lease_until}"
