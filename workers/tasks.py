"""The task: answer a doorbell, claim its chunk, stream the outcomes into the database. Everything else is elsewhere."""

import logging
import time
from collections import Counter
from contextlib import closing
from typing import Any

from celery import current_app, shared_task
from celery.signals import worker_process_init

from db.leases import Claim, LeaseLost
from db.models import RunState
from db.session import reading
from db.views import RunView, prompt_texts, run_view
from workers.contract import TASK, BadMessage, Doorbell
from workers.faults import check_mount, is_gpu_fault, is_infrastructure
from workers.fleet.dispatch import dispatch, publisher
from workers.inference.pipeline import Segmenter
from workers.stream import Work, outcomes, summary, told
from workers.worker import Declined, Worker

log = logging.getLogger(__name__)

# After a fault of the surroundings, before the next claim: other workers may be luckier, and handing the chunk round at
# full speed would only use up its releases.
FAULT_PAUSE_SECONDS = 10.0


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
        run = run_view(session, doorbell.run, row_prompts=False)
    if run is None:
        return {"skipped": "no such run"}
    if run.state != RunState.ACTIVE:  # before its model is loaded for nothing
        worker.unqueue(doorbell.chunk)
        return {"skipped": f"run is {run.state}"}
    with worker.answering(run, doorbell.chunk):
        return _answer(worker, run, doorbell)


def _answer(worker: Worker, run: RunView, doorbell: Doorbell) -> dict[str, Any]:
    try:
        segmenter = worker.segmenter_for(run)  # before the claim: a slow or failing load costs no attempt
    except Declined as reason:
        return {"declined": str(reason)}
    claim = None if worker.draining.is_set() else worker.claim(doorbell.run, doorbell.chunk)
    if claim is None:
        worker.unqueue(doorbell.chunk)  # if it is still queued, it is to be rung again when it can be claimed
        return {"skipped": "draining" if worker.draining.is_set() else "not to be claimed"}
    try:
        return _work(worker, run, segmenter, claim)
    except LeaseLost as error:
        log.warning("chunk %d of %s is no longer ours%s", claim.number, run.name, f": {error}" if str(error) else "")
        return {"lost": claim.number}
    except Exception as error:
        _end_attempt(worker, claim, error)
        if isinstance(error, MemoryError):  # Celery would end the whole node
            raise RuntimeError("out of memory") from error
        raise
    finally:
        if not worker.draining.is_set():
            dispatch(worker.sessions, publisher(current_app), [run.id])


def _end_attempt(worker: Worker, claim: Claim, error: Exception) -> None:
    """Give the chunk back: its attempt too, if not the chunk but the surroundings failed."""
    if is_infrastructure(error):
        worker.release(claim, str(error))
        if is_gpu_fault(error):
            worker.end_process(error)
        worker.draining.wait(FAULT_PAUSE_SECONDS)
    else:
        worker.fail(claim, error)


def _work(worker: Worker, run: RunView, segmenter: Segmenter, claim: Claim) -> dict[str, Any]:
    began = time.monotonic()
    seen: Counter[str] = Counter()
    finished = False
    with reading(worker.sessions) as session:
        prompts = prompt_texts(session, {prompt_id for image in claim.images for prompt_id in image.prompt_ids})
    work = Work(run, claim, prompts, segmenter, worker.settings, worker.draining.is_set)
    with closing(outcomes(work)) as batches:  # closed: its threads end before the release
        for batch in batches:
            check_mount(worker.sessions, run, batch)
            finished = worker.commit(claim, batch)
            seen.update(summary(batch, run.threshold))
    if not finished and not worker.draining.is_set():
        raise RuntimeError(f"chunk {claim.number} has images that its claim does not know")
    if not finished:
        worker.release(claim)
        seen["released"] = len(claim.images) - seen["images"]
    seconds = time.monotonic() - began
    log.info("%s chunk %d: %s in %.1f s", run.name, claim.number, told(seen), seconds)
    return {"run": run.name, "chunk": claim.number, **seen, "seconds": round(seconds, 1)}
