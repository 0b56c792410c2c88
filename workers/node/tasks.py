"""The task: answer a doorbell, claim its chunk, stream the outcomes into the database. Everything else is elsewhere."""

import logging
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any

from celery import current_app, shared_task
from celery.signals import worker_process_init
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from db.claims import Claim, ImageFailed, LeaseLost, Outcome
from db.doorbells import is_rung
from db.models import STOPPED, RunState
from db.runs import state_of
from db.session import DatabaseUnusable, read
from db.views.status import RunView, prompt_texts, run_view
from workers.contract import TASK, BadMessage, Doorbell
from workers.errors import ErrorClass, first_line, one_line
from workers.fleet.dispatch import dispatch, publisher
from workers.inference import readahead
from workers.inference.pipeline import Pace, Segmenter, decode_threads
from workers.node.attempt import Work, outcomes, summary, told
from workers.node.faults import check_model, check_mount, is_infrastructure, ruins_process
from workers.node.worker import Declined, Worker
from workers.settings import load_settings

log = logging.getLogger(__name__)

DECLINED_PAUSES = 6  # of those after a fault: so long a chunk rests whose model cannot be had here


@worker_process_init.connect
def _introduce_worker(**_: Any) -> None:
    """Show the node in sam3-status before its first chunk, and ring what one worker more may take."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as in our Celery parent, which the pool does not hand on
    logging.getLogger("workers").setLevel(logging.INFO)  # a line for each chunk; Celery's own matter only as warnings
    try:
        dispatch(Worker.this().sessions, publisher(current_app))
    except (SQLAlchemyError, DatabaseUnusable) as error:  # the first doorbell tries again
        log.warning("the database cannot be reached: %s", first_line(error))


@shared_task(name=TASK)
def segment_chunk(message: Any) -> dict[str, Any]:
    """Segment what is pending of one chunk. Returns a small summary for Flower; raises if the attempt failed."""
    try:
        doorbell = Doorbell.from_message(message)
    except BadMessage as error:
        log.warning("dropped a doorbell: %s", error)
        return {"dropped": str(error)}
    if Worker.breaker.open or Worker.worn_out():
        return {"skipped": "this node stops"}  # the chunk stays queued: it is rung again when its doorbell is missed
    try:
        return _answer(doorbell)
    except Exception as error:
        if is_infrastructure(error):
            _fault(first_line(error) or type(error).__name__)
        if isinstance(error, MemoryError):  # Celery would end the whole node
            raise RuntimeError("out of memory") from error
        raise


@cache
def _foreign() -> dict[str, Any]:
    """Told once: whoever rings at the wrong door may do so often."""
    log.warning("dropped a doorbell of another database; does somebody else write to our queue?")
    return {"dropped": "it is another database's"}


def _fault(reason: str) -> None:
    Worker.breaker.fault(reason)
    if not Worker.breaker.open and not Worker.asked_to_end():
        # Other workers may be luckier, and handing chunks round at full speed would only use up their releases.
        time.sleep(load_settings().fault_pause_seconds)


def _answer(doorbell: Doorbell) -> dict[str, Any]:
    worker = Worker.this()
    if doorbell.database != worker.identity:
        return _foreign()
    run = read(worker.sessions, run_view, doorbell.run, row_prompts=False)
    if run is None:
        return {"skipped": "no such run"}
    waits = read(worker.sessions, is_rung, run.id, doorbell.chunk)  # else it is late, repeated or forged
    if run.state != RunState.ACTIVE:  # before its model is loaded for nothing
        if waits:
            worker.unqueue(doorbell.chunk)
        return {"skipped": f"run is {run.state}"}
    if not waits:
        return {"skipped": "not to be claimed"}
    try:
        with worker.answering(run, doorbell.chunk):
            # Before the claim: a slow or failing load costs no attempt.
            return _claimed(worker, run, worker.segmenter_for(run), doorbell)
    except Declined as reason:
        if reason.fault:
            _hand_on(worker, doorbell.chunk, reason)
        return {"declined": str(reason)}


def _hand_on(worker: Worker, chunk_id: int, reason: Declined) -> None:
    """A model cannot be had here: its chunk leaves the front of the queue, where it keeps others from us."""
    worker.unqueue(chunk_id, DECLINED_PAUSES * worker.settings.fault_pause_seconds)
    if reason.tried or not worker.may_serve_another():  # ending the node would not help the others
        _fault(str(reason))


def _claimed(worker: Worker, run: RunView, segmenter: Segmenter, doorbell: Doorbell) -> dict[str, Any]:
    claim = None if worker.draining.is_set() else worker.claim(run.id, doorbell.chunk, run.uid)
    if claim is None:
        worker.unqueue(doorbell.chunk)  # if it is still queued, it is to be rung again when it can be claimed
        return {"skipped": "draining" if worker.draining.is_set() else "not to be claimed"}
    try:
        return _work(worker, run, segmenter, claim)
    except LeaseLost as error:
        why = str(error) or _stopped(worker, run)
        log.warning("chunk %d of %s is no longer ours%s", claim.number, run.name, f": {why}" if why else "")
        return {"lost": claim.number}
    except Exception as error:
        _end_attempt(worker, claim, error)
        raise
    finally:
        worker.let_go()
        if not worker.draining.is_set():
            dispatch(worker.sessions, publisher(current_app), [run.id])


def _stopped(worker: Worker, run: RunView) -> str | None:
    """In words, who takes every chunk of the run from its worker, if anybody does."""
    state = read(worker.sessions, state_of, run.id)
    if state in (None, RunState.DELETING):
        return "its run is being deleted" if state else "its run was deleted"
    return "its run was cancelled" if state in STOPPED else None


def _end_attempt(worker: Worker, claim: Claim, error: Exception) -> None:
    """Give the chunk back: its attempt too, if not the chunk but the surroundings failed."""
    if ruins_process(error):
        # A GPU that was seen to work may have been broken by an image of the chunk: not given back, that is found out.
        # Any other is the suspect itself. The next process tests it thoroughly before it claims anything.
        if not worker.gpu_works:
            worker.release(claim, str(error))
        worker.end_process(first_line(error))
    if is_infrastructure(error):
        worker.release(claim, str(error))
    else:
        worker.fail(claim, error)


def _work(worker: Worker, run: RunView, segmenter: Segmenter, claim: Claim) -> dict[str, Any]:
    began = time.monotonic()
    seen: Counter[str] = Counter()
    finished = False
    asked = {prompt_id for image in claim.images for prompt_id in image.prompt_ids}
    prompts = read(worker.sessions, prompt_texts, asked)
    if asked - prompts.keys():  # only a delete takes prompts away
        raise LeaseLost
    work = Work(run, claim, prompts, segmenter, _pace(worker, claim), partial(worker.begin_range, claim), check_model)
    with closing(outcomes(work)) as batches:  # closed: its threads end before the release
        for batch in batches:
            check_mount(worker.sessions, run, claim, batch, worker.settings.decode_seconds)
            finished = _commit(worker, claim, batch)
            seen.update(summary(batch, run.frozen.threshold))
    if not finished and worker.has_lost(claim):
        raise LeaseLost
    if not finished and not worker.ends():
        if not worker.holds(claim):  # a delete has taken its images away already
            raise LeaseLost
        raise RuntimeError(f"chunk {claim.number} has images that its claim does not know")
    if not finished:
        worker.release(claim)
        seen["released"] = len(claim.images) - seen["images"]
    _renew_if_worn_out(worker)
    seconds = time.monotonic() - began
    log.info("%s chunk %d: %s in %.1f s", run.name, claim.number, told(seen), seconds)
    return {"run": run.name, "chunk": claim.number, **seen, "seconds": round(seconds, 1)}


def _renew_if_worn_out(worker: Worker) -> None:
    """Everything is committed or handed back by now: a fresh process costs nobody an attempt."""
    if worker.worn_out():
        log.warning("decoders hang on %d files; this node is started again without them", readahead.left_behind())
        worker.breaker.renew()


def _commit(worker: Worker, claim: Claim, batch: Sequence[Outcome]) -> bool:
    """Record one batch, and fail alone what the database refuses; true if that finished the chunk."""
    try:
        return worker.commit(claim, batch)
    except (IntegrityError, DataError) as error:  # of values: that is some image's own, and the database is well
        refused, reason = batch[0], f"the database refuses its result: {one_line(first_line(error.orig or error))}"
        if len(batch) == 1 and isinstance(refused, ImageFailed):
            raise
    if len(batch) == 1:
        return worker.commit(claim, [ImageFailed(refused.image_id, ErrorClass.INTERNAL, reason)])
    half = len(batch) // 2
    _commit(worker, claim, batch[:half])
    return _commit(worker, claim, batch[half:])


def _pace(worker: Worker, claim: Claim) -> Pace:
    settings = worker.settings
    return Pace(
        batch_size=settings.batch_size,
        threads=settings.decode_threads or decode_threads(settings.cores),
        stopped=partial(worker.stopped, claim),
        caps=worker.caps,
        progressed=worker.progressed,
        narrows=lambda error: not is_infrastructure(error),
        decode_seconds=settings.decode_seconds,
    )
