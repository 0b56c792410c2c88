"""One attempt at a chunk: segments its images batch by batch, and commits each batch. Knows no Celery and no torch."""

import logging
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial

from db.claimed import ClaimedImage
from db.claims import LeaseLost
from db.outcomes import ImageDone, ImageFailed, Outcome, count_found
from db.same_content import done_before
from db.session import read
from db.values import Spent
from db.views.run_views import RunView, prompt_texts
from workers.errors import first_line
from workers.inference.items import Item
from workers.inference.items import Outcome as Seen
from workers.inference.protocol import OutOfMemory, Segmenter
from workers.inference.reading.rules import rules_of
from workers.inference.stages import Stage, StageSeconds, timed
from workers.inference.stream import pipeline
from workers.inference.stream.pipeline import NothingGotThrough, Pace, decode_threads, refused_prompts
from workers.inference.stream.repeats import Known
from workers.node.chunk import ChunkInHand
from workers.node.faults import BrokenModel, is_infrastructure
from workers.node.model import Model
from workers.node.mount import check_mount
from workers.node.servers import check_servers
from workers.node.translation import answered_prompts, as_it_is, found_of, item_of, options_of, outcome_of, refused_item
from workers.node.worker import Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What one attempt needs: the claimed chunk, and the segmenter of its run's model."""

    worker: Worker
    model: Model
    segmenter: Segmenter
    chunk: ChunkInHand

    @property
    def run(self) -> RunView:
        return self.chunk.run

    @cached_property
    def pace(self) -> Pace:
        """How the images are streamed. Everything that the stream tells while it runs goes through here."""
        settings = self.worker.settings
        return Pace(
            batch_size=settings.batch_size,
            threads=settings.decode_threads or decode_threads(settings.cores),
            stopped=self.chunk.stopped,
            caps=self.model.caps,
            stage_threads=self.model.stage_threads,
            report=self._report,
            narrows=lambda error: not is_infrastructure(error),
            decode_seconds=settings.decode_seconds,
        )

    @cached_property
    def images(self) -> dict[int, ClaimedImage]:
        """The chunk's images by their ids."""
        return {image.id: image for image in self.chunk.images}

    @cached_property
    def seconds(self) -> StageSeconds:
        """What the stages took since the last commit."""
        return StageSeconds()

    def _report(self, stage: Stage, images: int, seconds: float) -> None:
        self.seconds.add(stage, images, seconds)
        self.worker.activity.progressed()


def work(attempt: Attempt) -> dict[str, int | float | str]:
    """Segment and commit the pending images of the chunk; return a small summary of its outcomes and its time.

    Afterwards the chunk is done, or given back because this process ends or the run is paused. Raises `LeaseLost` if
    the claim is lost, and any other error that ends the attempt.
    """
    began = time.monotonic()
    chunk, seen, finished = attempt.chunk, _nothing_seen(), False
    with closing(outcomes(attempt)) as batches:  # so that its threads end before the chunk is given back
        for batch in _timing_waits(batches, attempt.seconds):
            with timed(attempt.seconds.add, Stage.COMMIT, len(batch)):
                _check_surroundings(attempt, batch)
                finished = chunk.commit(batch, Spent(**attempt.seconds.taken()))
            if any(isinstance(outcome, ImageDone) for outcome in batch):
                attempt.model.worked()
            seen.update(_summary(batch, attempt.run.frozen.threshold))
    if not finished:
        _give_back(attempt)
        seen["released"] = len(chunk.images) - seen["images"]
    seconds = time.monotonic() - began
    log.info("%s chunk %d: %s in %.1f s", attempt.run.name, chunk.number, _in_words(seen), seconds)
    return {"run": attempt.run.name, "chunk": chunk.number, **seen, "seconds": round(seconds, 1)}


def _check_surroundings(attempt: Attempt, batch: list[Outcome]) -> None:
    """Raise `Infrastructure` if images of the batch failed for a reason that is not theirs."""
    for check in (check_servers, check_mount):
        check(attempt.worker.sessions, attempt.run, attempt.chunk.images, batch, attempt.pace.decode_seconds)


def _timing_waits(batches: Iterator[list[Outcome]], seconds: StageSeconds) -> Iterator[list[Outcome]]:
    """Yield the batches, and add the time of waiting for each to the stage `WAITING`."""
    while True:
        with timed(seconds.add, Stage.WAITING, 0):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _give_back(attempt: Attempt) -> None:
    """Give back a chunk whose stream of outcomes ended early. Raises `LeaseLost` if the claim is lost."""
    chunk = attempt.chunk
    if chunk.is_lost:
        raise LeaseLost
    if not (attempt.worker.ends() or chunk.is_paused):
        if not chunk.is_still_ours():  # a delete has removed its images
            raise LeaseLost
        raise RuntimeError(f"chunk {chunk.number} has images that its claim does not know")
    chunk.release()


def outcomes(attempt: Attempt) -> Generator[list[Outcome]]:
    """The outcomes of all images of the chunk, a batch at a time. Images whose prompts the model refuses come first."""
    run, images = attempt.run, attempt.chunk.images
    if nothing_left := [image for image in images if image.kept and not image.prompt_ids]:
        yield [as_it_is(image) for image in nothing_left]
        images = tuple(image for image in images if image not in nothing_left)
    texts = _prompt_texts(attempt)
    own = {text for prompt_id, text in texts.items() if prompt_id not in run.every_image}
    bad = refused_prompts(attempt.segmenter, sorted(own))
    items = [item_of(run, image, texts) for image in images]
    refused = [refused_item(item, bad) for item in items if bad.keys() & set(item.prompts)]
    if refused:
        yield list(refused)
    good = [item for item in items if not bad.keys() & set(item.prompts)]
    by_id = {item.id: item for item in good}
    for part in _one_by_one(attempt, good) if attempt.chunk.is_serial else [good]:
        for batch in _segmented(attempt, part):
            yield [outcome_of(one, answered_prompts(attempt.images[one.id], by_id[one.id], one)) for one in batch]


def _prompt_texts(attempt: Attempt) -> dict[int, str]:
    """The texts of all prompts of the chunk's images, by id."""
    asked = {prompt_id for image in attempt.chunk.images for prompt_id in image.prompt_ids}
    asked |= {prompt_id for image in attempt.chunk.images if image.kept for prompt_id in image.kept.prompt_ids}
    texts = read(attempt.worker.sessions, prompt_texts, asked)
    if asked - texts.keys():  # only a delete removes prompts
        raise LeaseLost
    return texts


def _segmented(attempt: Attempt, items: list[Item]) -> Iterator[list[Seen]]:
    """The outcomes of these items. If no image of a batch gets through, the model is tested before it goes on."""
    rules = rules_of(attempt.run.source, attempt.run.frozen)
    options = options_of(attempt.run, attempt.model.compiled)
    recall = partial(_recalled, attempt) if attempt.run.frozen.dedupe else None
    while items:
        failed: list[Seen] = []
        try:
            for batch in pipeline.segment(items, attempt.segmenter, rules, options, attempt.pace, recall):
                items = items[len(batch) :]
                yield batch
        except NothingGotThrough as nothing:
            # The threads of the stages have ended, so no other thread uses the model now.
            _check_model(attempt)
            log.error("no image of a batch gets through, but the self-test's do", exc_info=nothing.__cause__)
            failed = nothing.outcomes
        if not failed:
            return
        items = items[len(failed) :]
        yield failed


def _recalled(attempt: Attempt, contents: Mapping[int, bytes]) -> dict[int, Known]:
    """What images of the run got that had the same contents as these, by the ids of these images."""
    before = read(attempt.worker.sessions, done_before, attempt.run.id, set(contents.values()))
    known = {}
    for id, content in contents.items():
        done, asked = before.get(content), attempt.images[id].prompt_ids
        # Prompts of the same text and other classes make the same content, but are not the same prompts.
        if done is not None and done.results.keys() >= set(asked):
            found = tuple(found_of(done.results[prompt_id]) for prompt_id in asked)
            known[id] = Known(done.width, done.height, found, done.warning)
    return known


def _check_model(attempt: Attempt) -> None:
    """Raise `BrokenModel` if the model fails its self-test, or `OutOfMemory` if it finds no memory for that: then the
    images are not the cause of its errors."""
    try:
        attempt.model.check(attempt.segmenter)
    except OutOfMemory:  # all images need as much, so another process has taken the memory
        raise
    except Exception as error:
        raise BrokenModel(f"the model no longer passes its self-test: {first_line(error)}") from error


def _one_by_one(attempt: Attempt, items: list[Item]) -> Iterator[list[Item]]:
    """Yield the items one batch at a time, each only after the batch before is committed.

    This is for a chunk that has crashed before. The rows of each batch are noted first, so that they are known if this
    process dies, too.
    """
    rows = {image.id: image.row for image in attempt.chunk.images}
    size = attempt.pace.batch_size
    for start in range(0, len(items), size):
        if attempt.chunk.stopped():
            return
        part = items[start : start + size]
        attempt.chunk.begin_range(rows[part[0].id], rows[part[-1].id])
        yield part


def _nothing_seen() -> Counter[str]:
    return Counter(images=0, segmented=0, empty=0, failed=0, instances=0)


def _summary(outcomes: list[Outcome], threshold: float) -> Counter[str]:
    """How many of these outcomes there are of each kind, and how many instances they have."""
    seen = _nothing_seen()
    seen["images"] = len(outcomes)
    for outcome in outcomes:
        if isinstance(outcome, ImageFailed):
            seen["failed"] += 1
            continue
        found = sum(count_found(result, threshold) for result in outcome.results)
        seen["instances"] += found
        seen["segmented" if found else "empty"] += 1
    return seen


def _in_words(seen: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in seen.items() if count or name == "images")
