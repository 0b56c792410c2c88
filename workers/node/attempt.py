"""A claim's images as a stream of outcomes in the database's words. Commits nothing, knows no Celery and no torch."""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from db.claims import Claim, ClaimedImage, ImageDone, ImageFailed, Outcome, above
from db.values import FoundInstance, PromptResult
from db.views.status import RunView
from workers.errors import ErrorClass
from workers.inference import location, pipeline
from workers.inference.images import ReadRules
from workers.inference.pipeline import Item, NothingGotThrough, Options, Pace, Segmenter, Unreadable, refused_prompts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What one attempt at a chunk needs. `prompts`: texts by id, of the claim's images."""

    run: RunView
    claim: Claim
    prompts: dict[int, str]
    segmenter: Segmenter
    pace: Pace
    begin_range: Callable[[int, int], None]  # told the first and last row of a batch before any of its files is opened
    check_model: Callable[[Segmenter], None]  # raises if the model is broken, and not the images that it raised for


def outcomes(work: Work) -> Generator[list[Outcome]]:
    """Each of the claim's images once, a batch at a time; those whose own prompts the model cannot take come first."""
    run, claim = work.run, work.claim
    own = {text for prompt_id, text in work.prompts.items() if prompt_id not in run.every_image}
    bad = refused_prompts(work.segmenter, sorted(own))
    items = [_item(work, image) for image in claim.images]
    refused = [_refused(item, bad) for item in items if bad.keys() & set(item.prompts)]
    if refused:
        yield list(refused)
    prompt_ids = {image.id: image.prompt_ids for image in claim.images}
    good = [item for item in items if not bad.keys() & set(item.prompts)]
    for part in _one_by_one(work, good) if claim.serial else [good]:
        for batch in _segmented(work, part):
            yield [_record(outcome, prompt_ids[outcome.id]) for outcome in batch]


def _segmented(work: Work, items: list[Item]) -> Iterator[list[pipeline.Outcome]]:
    """The outcomes of these items; where a whole batch makes the model raise, the model is tested in between."""
    rules, options = _rules(work.run), _options(work.run)
    while items:
        failed: list[pipeline.Outcome] = []
        try:
            for batch in pipeline.segment(items, work.segmenter, rules, options, work.pace):
                items = items[len(batch) :]
                yield batch
        except NothingGotThrough as nothing:
            # Its stages have ended: nobody else calls the model now.
            work.check_model(work.segmenter)
            log.error("every image of a batch makes the model raise, which is well", exc_info=nothing.__cause__)
            failed = nothing.outcomes
        if not failed:
            return
        items = items[len(failed) :]
        yield failed


def _one_by_one(work: Work, items: list[Item]) -> Iterator[list[Item]]:
    """One batch at a time, none begun before the last is committed: the process may die, and of one of these.

    A process that worked on this chunk has died before. The batch is written down first, so that whoever finds us dead
    knows the suspects.
    """
    rows = {image.id: image.row for image in work.claim.images}
    size = work.pace.batch_size
    for start in range(0, len(items), size):
        if work.pace.stopped():
            return
        part = items[start : start + size]
        work.begin_range(rows[part[0].id], rows[part[-1].id])
        yield part


def _rules(run: RunView) -> ReadRules:
    return ReadRules(
        orientation="raw" if run.frozen.orientation == "raw" else "exif",
        root=run.source.root if run.source.confined else None,
        follow_symlinks=run.source.follow_symlinks,
        stretch=run.frozen.stretch,
    )


def _options(run: RunView) -> Options:
    return Options(
        threshold=run.frozen.threshold,
        mask_threshold=run.frozen.mask_threshold,
        score_floor=run.frozen.score_floor,
        mask_rule="meta" if run.frozen.mask_rule == "meta" else "library",
    )


def _refused(item: Item, bad: dict[str, str]) -> ImageFailed:
    reasons = [f"{prompt!r}: {bad[prompt]}" for prompt in item.prompts if prompt in bad]
    return ImageFailed(item.id, ErrorClass.PROMPT, "; ".join(reasons))


def _item(work: Work, image: ClaimedImage) -> Item:
    prompts = tuple(work.prompts[prompt_id] for prompt_id in image.prompt_ids)
    return Item(image.id, location.place(work.run.source.root, image.path), prompts)


def _record(outcome: pipeline.Outcome, prompt_ids: tuple[int, ...]) -> Outcome:
    """What inference says, in the words of the database."""
    size, mtime_ns = (outcome.file.size, outcome.file.mtime_ns) if outcome.file else (None, None)
    if isinstance(outcome, Unreadable):
        # A decoder may quote the file's own bytes, and PostgreSQL stores no NUL.
        return ImageFailed(outcome.id, outcome.error_class, outcome.message.replace("\0", "\\0"), size, mtime_ns)
    results = tuple(
        PromptResult(
            prompt_id,
            found.presence,
            found.capped,
            tuple(FoundInstance(one.score, one.box, one.area, one.rle) for one in found.instances),
        )
        for prompt_id, found in zip(prompt_ids, outcome.found, strict=True)
    )
    return ImageDone(outcome.id, outcome.width, outcome.height, results, size, mtime_ns, outcome.warning)


def summary(outcomes: list[Outcome], threshold: float) -> Counter[str]:
    seen: Counter[str] = Counter(images=len(outcomes), segmented=0, empty=0, failed=0, instances=0)
    for outcome in outcomes:
        if isinstance(outcome, ImageFailed):
            seen["failed"] += 1
            continue
        found = sum(above(result, threshold) for result in outcome.results)
        seen["instances"] += found
        seen["segmented" if found else "empty"] += 1
    return seen


def told(seen: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in seen.items() if count or name == "images")
