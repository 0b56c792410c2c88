"""The task: answer a doorbell, claim its chunk, stream the outcomes into the database. Everything else is elsewhere."""

import logging
import os
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from typing import Any

from celery import current_app, shared_task
from celery.signals import worker_process_init

from db.leases import Claim, ClaimedImage, FoundInstance, ImageDone, ImageFailed, LeaseLost, Outcome, PromptResult
from db.models import RunState
from db.session import reading
from db.views import RunView, run_view
from workers.contract import TASK, BadMessage, Doorbell
from workers.fleet.dispatch import dispatch, publisher
from workers.inference import pipeline
from workers.inference.images import ReadRules
from workers.inference.pipeline import Item, Options, Rejected, Segmenter
from workers.worker import Declined, Worker

log = logging.getLogger(__name__)


@worker_process_init.connect
def _introduce_worker(**_: Any) -> None:
    """Show the node in sam3-status before its first chunk, and a line for each of its chunks."""
    logging.getLogger("workers").setLevel(logging.INFO)  # Celery's own lines matter only as warnings
    Worker.this()


@shared_task(name=TASK)
def segment_chunk(message: Any) -> dict[str, Any]:
    """Segment what is pending of one chunk. Returns a small summary for Flower; raises if the attempt failed."""
    try:
        doorbell = Doorbell.from_message(message)
    except BadMessage as error:
        log.warning("dropped a doorbell: %s", error)
        return {"dropped": str(error)}
    worker = Worker.this()
    with reading(worker.sessions) as session:
        run = run_view(session, doorbell.run)
    if run is None or run.state != RunState.ACTIVE:  # before its model is loaded for nothing
        return {"skipped": "no such run" if run is None else f"run is {run.state}"}
    with worker.answering(run, doorbell.chunk):
        return _answer(worker, run, doorbell)


def _answer(worker: Worker, run: RunView, doorbell: Doorbell) -> dict[str, Any]:
    try:
        segmenter = worker.segmenter_for(run)  # before the claim: a slow or failing load costs no attempt
    except Declined as reason:
        return {"declined": str(reason)}
    if worker.draining.is_set():
        worker.unqueue(doorbell.chunk)
        return {"skipped": "draining"}
    claim = worker.claim(doorbell.run, doorbell.chunk)
    if claim is None:
        return {"skipped": "not queued"}
    try:
        return _work(worker, run, segmenter, claim)
    except LeaseLost as error:
        log.warning("chunk %d of %s is no longer ours%s", claim.number, run.name, f": {error}" if str(error) else "")
        return {"lost": claim.number}
    except Exception as error:
        worker.fail(claim, error)
        raise
    finally:
        if not worker.draining.is_set():
            dispatch(worker.sessions, publisher(current_app), [run.id])


def _work(worker: Worker, run: RunView, segmenter: Segmenter, claim: Claim) -> dict[str, Any]:
    began = time.monotonic()
    seen: Counter[str] = Counter()
    finished = False
    with closing(_outcomes(worker, run, segmenter, claim)) as batches:  # closed: its threads end before the release
        for outcomes in batches:
            finished = worker.commit(claim, outcomes)
            seen.update(_summary(outcomes, run.threshold))
            if worker.draining.is_set():
                break
    if not finished:
        worker.release(claim)
        seen["released"] = len(claim.images) - seen["images"]
    seconds = time.monotonic() - began
    log.info("%s chunk %d: %s in %.1f s", run.name, claim.number, _told(seen), seconds)
    return {"run": run.name, "chunk": claim.number, **seen, "seconds": round(seconds, 1)}


def _outcomes(worker: Worker, run: RunView, segmenter: Segmenter, claim: Claim) -> Generator[list[Outcome]]:
    """Each of the claim's images once, a batch at a time; those whose own prompts the model cannot take come first."""
    own = {prompt_id for image in claim.images for prompt_id in image.prompt_ids} - set(run.every_image)
    bad = segmenter.check_prompts(sorted(run.prompts[prompt_id] for prompt_id in own))
    items, refused = [], []
    for image in claim.images:
        item = _item(run, image)
        reasons = [f"{prompt!r}: {bad[prompt]}" for prompt in item.prompts if prompt in bad]
        if reasons:
            refused.append(ImageFailed(image.id, "prompt", "; ".join(reasons)))
        else:
            items.append(item)
    if refused:
        yield list(refused)
    prompt_ids = {image.id: image.prompt_ids for image in claim.images}
    rules = ReadRules(
        orientation="raw" if run.orientation == "raw" else "exif",
        root=run.root if run.confined else None,
        follow_symlinks=run.follow_symlinks,
    )
    options = Options(
        threshold=run.threshold,
        mask_threshold=run.mask_threshold,
        score_floor=run.score_floor,
        mask_rule="meta" if run.mask_rule == "meta" else "library",
    )
    settings = worker.settings
    batches = pipeline.segment(
        items, segmenter, rules, options, batch_size=settings.batch_size, threads=settings.decode_threads
    )
    for batch in batches:
        yield [_record(outcome, prompt_ids[outcome.id]) for outcome in batch]


def _item(run: RunView, image: ClaimedImage) -> Item:
    prompts = tuple(run.prompts[prompt_id] for prompt_id in image.prompt_ids)
    return Item(image.id, os.path.join(run.root, image.path), prompts)


def _record(outcome: pipeline.Outcome, prompt_ids: tuple[int, ...]) -> Outcome:
    """What inference says, in the words of the database."""
    if isinstance(outcome, Rejected):
        # A decoder may quote the file's own bytes, and PostgreSQL stores no NUL.
        return ImageFailed(outcome.id, outcome.error_class, outcome.message.replace("\0", "\\0"))
    results = tuple(
        PromptResult(
            prompt_id,
            found.presence,
            found.capped,
            tuple(FoundInstance(one.score, one.box, one.area, one.rle) for one in found.instances),
        )
        for prompt_id, found in zip(prompt_ids, outcome.found, strict=True)
    )
    return ImageDone(outcome.id, outcome.width, outcome.height, results)


def _summary(outcomes: list[Outcome], threshold: float) -> Counter[str]:
    seen: Counter[str] = Counter(images=len(outcomes), segmented=0, empty=0, failed=0, instances=0)
    for outcome in outcomes:
        if isinstance(outcome, ImageFailed):
            seen["failed"] += 1
            continue
        found = sum(one.score >= threshold for result in outcome.results for one in result.instances)
        seen["instances"] += found
        seen["segmented" if found else "empty"] += 1
    return seen


def _told(seen: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in seen.items() if count or name == "images")
